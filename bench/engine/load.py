"""The client: streams answers, and notes when each piece came. Nothing is read before the clock has stopped, so that the servers do not pay
for the reader on the same cores."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import aiohttp

from bench.engine.processes import Started
from bench.engine.servers import Server

Messages = list[dict[str, str]]
# Seconds for one answer.
ANSWER_SECONDS = 900


class Failed(Exception):
    """A server answered something else than tokens."""


@dataclass(frozen=True)
class Chat:
    """What is asked: messages, how many new tokens, and how each is chosen."""

    messages: Messages
    tokens: int
    sampling: Mapping[str, float] = field(default_factory=lambda: {"temperature": 0})


@dataclass(frozen=True)
class Side:
    """Whom the load asks."""

    server: Server
    process: Started


@dataclass(frozen=True)
class Heard:
    """One answer: when it was asked for, and what came when, by the same clock in seconds."""

    asked: float
    came: tuple[tuple[float, bytes], ...]

    @cached_property
    def _events(self) -> list[tuple[float, dict[str, Any]]]:
        found, rest = [], b""
        for seconds, data in self.came:
            *lines, rest = (rest + data).split(b"\n")
            found += [(seconds, json.loads(line[6:])) for line in lines if line.startswith(b"data: {")]
        return found

    @cached_property
    def pieces(self) -> list[float]:
        """When each piece of text came. A piece may hold several tokens, and several pieces may come at once."""
        return [seconds for seconds, event in self._events if any(_text(choice) for choice in event.get("choices") or ())]

    @property
    def tokens(self) -> int:
        """A server that counts them itself is believed."""
        counted = [event["usage"]["completion_tokens"] for _, event in self._events if event.get("usage")]
        return int(counted[-1]) if counted else len(self.pieces)

    @property
    def text(self) -> str:
        return "".join(_text(choice) for _, event in self._events for choice in event.get("choices") or ())

    @property
    def first(self) -> float:
        """Seconds to the first token with any text."""
        if not self.pieces:
            raise Failed(f"an answer without a token: {b''.join(data for _, data in self.came)[-300:]!r}")
        return self.pieces[0] - self.asked

    @property
    def ended(self) -> float:
        return self.came[-1][0]

    @property
    def gaps(self) -> list[float]:
        """Seconds between pieces."""
        return [after - before for before, after in itertools.pairwise(self.pieces)]


def _text(choice: dict[str, Any]) -> str:
    return str((choice.get("delta") or {}).get("content") or "")


@dataclass(frozen=True)
class Round:
    """One round of one server: tokens per second over all its chats, seconds to the first token, tokens in all."""

    speed: float
    first: float
    tokens: int

    @classmethod
    def of(cls, answers: Sequence[Heard]) -> Round:
        tokens = sum(answer.tokens for answer in answers)
        seconds = max(answer.ended for answer in answers) - min(answer.asked for answer in answers)
        return cls(tokens / seconds, statistics.median(answer.first for answer in answers), tokens)


def body(server: Server, chat: Chat) -> bytes:
    made: dict[str, Any] = {"model": server.model(), "messages": chat.messages, "max_tokens": chat.tokens, **chat.sampling}
    made |= {"stream": True, "stream_options": {"include_usage": True}}
    if server.ignores_eos:
        made["ignore_eos"] = True
    return json.dumps(made).encode()


async def ask(client: aiohttp.ClientSession, side: Side, chat: Chat, came: list[tuple[float, bytes]] | None = None) -> Heard:
    """The answer; `came` is filled while it comes, for those who do not wait for its end."""
    came = [] if came is None else came
    data = body(side.server, chat)
    asked = time.perf_counter()
    url = f"{side.process.url}/v1/chat/completions"
    async with client.post(url, data=data, headers={"Content-Type": "application/json"}) as answer:
        if answer.status != 200:
            raise Failed(f"{side.server.name}: HTTP {answer.status}: {(await answer.text())[:300]}")
        async for data in answer.content.iter_any():
            came.append((time.perf_counter(), data))
    return Heard(asked, tuple(came))


def client() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True), timeout=aiohttp.ClientTimeout(total=ANSWER_SECONDS)
    )


async def _all(side: Side, chats: Iterable[Chat], at_once: int) -> list[Heard]:
    """So many clients, each with one chat after the other until none is left."""
    left, heard = iter(chats), []

    async def one_after_the_other(session: aiohttp.ClientSession) -> None:
        for chat in left:
            heard.append(await ask(session, side, chat))

    async with client() as session:
        await asyncio.gather(*(one_after_the_other(session) for _ in range(at_once)))
    return heard


def answers(side: Side, chats: Iterable[Chat], at_once: int) -> list[Heard]:
    """Every answer to `chats`. Failed in words, whatever went wrong."""
    try:
        return asyncio.run(_all(side, chats, at_once))
    except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError) as error:
        raise Failed(f"{side.server.name}: {type(error).__name__}: {error}") from error
