"""Front doors that share the limits of each key: real ones over real connections, found by one name as a headless Service has it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import yaml
from fastapi import Request

from cluster import ports
from jitney_gateway.catalogue import Catalogue
from jitney_gateway.model import LOADING, READY
from jitney_gateway.server import app, chatting
from jitney_gateway.server.guard import Terms
from jitney_gateway.server.keyring import Keyring
from jitney_gateway.server.keys import make
from jitney_gateway.server.limits import MINUTE, Limits
from jitney_gateway.server.patience import patient
from jitney_gateway.server.peers import Peers
from support.fixed import Fixed, model
from support.rig import CHAT, PROMPTS, Rig, until
from support.serving import served

NAME = "doors.test"
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


@dataclass
class Names:
    """What the cluster's DNS would say of NAME."""

    addresses: list[str] = field(default_factory=list)
    broken: bool = False


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names, real = Names(list(HOSTS)), socket.getaddrinfo

    def found(host: Any, port: Any, *more: Any, **options: Any) -> Any:
        if host != NAME:
            return real(host, port, *more, **options)
        if names.broken:
            raise UnicodeError("nobody has thought of this")
        if not names.addresses:
            raise socket.gaierror("no such name")
        return [(socket.AF_INET6 if ":" in address else socket.AF_INET, 1, 6, "", (address, port)) for address in names.addresses]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    return names


class Door(Fixed):
    """Which may say that it is not ready. Its model never is: a chat that is let in is answered with 503, and costs one request."""

    words = ""

    def __init__(self) -> None:
        super().__init__(model("coming", LOADING, message="loading"))

    def unready(self) -> str:
        return self.words


@contextlib.asynccontextmanager
async def doors(count: int, terms: Terms, names: Names, **more: Any) -> AsyncIterator[tuple[int, list[Door]]]:
    """Their port, each on an address of its own; `more` is of their servers."""
    backends, port = [Door() for _ in range(count)], ports.free(1)[0]
    names.addresses = list(HOSTS[:count])
    async with contextlib.AsyncExitStack() as stack:
        for host, backend in zip(HOSTS, backends, strict=False):
            application = app.make(backend, Catalogue.read(), terms=terms, peers=Peers(f"{NAME}:{port}"))
            await stack.enter_async_context(served(application, host, port, **more))
        yield port, backends


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Front doors that have been there for a minute when they begin."""

    def made(clock: Callable[[], float], shared: bool) -> Limits:
        begun = clock()
        limits = Limits(lambda: begun, shared)
        limits._clock = lambda: clock() + MINUTE
        return limits

    monkeypatch.setattr(app, "Limits", made)


def keys(folder: Path, limit: int, *names: str) -> tuple[Keyring, list[str]]:
    """So many requests a minute for each, and the secrets."""
    made = [make(name) for name in names]
    file = folder / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": [key.written() | {"requestsPerMinute": limit} for _, key in made]}))
    return Keyring(file), [secret for secret, _ in made]


async def test_those_are_counted_that_take_requests(names: Names):
    async with doors(3, Terms(), names) as (port, backends), aiohttp.ClientSession() as client:
        peers = Peers(f"{NAME}:{port}")
        assert await peers.ready(client) == 3
        backends[0].words = "leaving"
        assert await peers.ready(client) == 2
        names.addresses = ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.4"]
        assert await peers.ready(client) == 2, "each once, and none where nobody listens"
        names.addresses = ["127.0.0.2", "::1"]
        assert await peers.ready(client) == 1, "of one family of addresses"
        names.addresses = []
        assert await peers.ready(client) == 0


async def test_one_that_joins_counts_itself_as_soon_as_it_takes_requests(names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its first count is before its port is open, and the next one of its usual ones would come too late."""
    monkeypatch.setattr(chatting, "COUNTED_EVERY", 3600)
    monkeypatch.setattr(chatting, "COUNTED_SOON", 0.02)
    monkeypatch.setattr(Door, "words", "starting", raising=False)
    ring, _ = keys(tmp_path, 8, "one")
    async with doors(2, Terms(ring), names) as (port, backends):
        await until_told(f"http://{HOSTS[0]}:{port}", 1)
        await asyncio.sleep(1)
        for backend in backends:
            backend.words = ""
        for host in HOSTS[:2]:
            await until_told(f"http://{host}:{port}", 2)


async def test_whatever_happens_they_are_counted_again(names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chatting, "COUNTED_SOON", 0.02)
    monkeypatch.setattr(chatting, "COUNTED_EVERY", 0.05)
    names.broken = True
    ring, _ = keys(tmp_path, 8, "one")
    async with doors(2, Terms(ring), names) as (port, _):
        await asyncio.sleep(0.2)
        await until_told(f"http://{HOSTS[0]}:{port}", 1)
        names.broken = False
        await until_told(f"http://{HOSTS[0]}:{port}", 2)


async def test_a_refusal_that_closes_the_connection_is_read_by_who_is_still_sending(
    names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: None
):
    """Large, or piece by piece."""
    monkeypatch.setattr(chatting, "COUNTED_SOON", 0.02)
    ring, (secret,) = keys(tmp_path, 1, "one")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 1000
            await asyncio.sleep(0.02)

    async with doors(2, Terms(ring, body_bytes=8_000_000, client_seconds=30), names, http=patient(30)) as (port, _):
        url = f"http://{HOSTS[0]}:{port}"
        await until_told(url, 2)
        async with httpx.AsyncClient(base_url=url, timeout=60, headers={"Authorization": f"Bearer {secret}"}) as client:
            assert (await client.post(CHAT, json={"model": "coming", "messages": []})).status_code == 503
            for content in (b"x" * 5_000_000, pieces()) * 2:
                told = await client.post(CHAT, content=content if isinstance(content, bytes) else pieces())
                assert (told.status_code, told.headers["connection"]) == (429, "close")
                assert int(told.headers["retry-after"]) > 0


async def test_what_is_refused_as_too_large_uses_up_no_request(names: Names, tmp_path: Path):
    ring, (secret,) = keys(tmp_path, 1, "one")
    async with doors(1, Terms(ring, body_bytes=1000), names) as (port, _):
        url = f"http://{HOSTS[0]}:{port}{CHAT}"
        async with httpx.AsyncClient(timeout=60, headers={"Authorization": f"Bearer {secret}"}) as client:
            assert (await client.post(url, content=b"x" * 1001)).status_code == 413
            asked = {"model": "coming", "messages": []}
            assert [(await client.post(url, json=asked)).status_code for _ in range(2)] == [503, 429]


async def test_one_that_has_just_begun_does_not_give_a_key_its_minute_again(names: Names, tmp_path: Path):
    ring, (secret,) = keys(tmp_path, 1000, "one")
    async with doors(2, Terms(ring), names) as (port, _):
        url = f"http://{HOSTS[0]}:{port}"
        async with httpx.AsyncClient(timeout=60, headers={"Authorization": f"Bearer {secret}"}) as client:
            async with asyncio.timeout(60):
                while (await client.post(f"{url}{CHAT}", json={"model": "coming", "messages": []})).status_code == 503:
                    pass
            let_in = int(sum(map(float, re.findall(r"^jitney_gateway_requests_total\{.*503.*\} (\S+)$", await told(url), re.MULTILINE))))
            assert 1 <= let_in < 500, "in less than half a minute"


async def told(url: str) -> str:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{url}/metrics")).text


async def test_two_front_doors_give_a_key_its_limit_once(names: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: None):
    """And where one leaves the other gives all of it."""
    monkeypatch.setattr(chatting, "COUNTED_EVERY", 0.05)
    ring, secrets = keys(tmp_path, 8, "one", "two", "three")
    async with doors(2, Terms(ring), names) as (port, backends):

        async def ask(host: str, secret: str) -> httpx.Response:
            async with httpx.AsyncClient(timeout=30, headers={"Authorization": f"Bearer {secret}"}) as client:
                return await client.post(f"http://{host}:{port}{CHAT}", json={"model": "coming", "messages": []})

        async def let_in(secret: str) -> list[int]:
            """How many each lets in, one after the other, before it refuses."""
            counts = []
            for host in HOSTS[:2]:
                counts.append(0)
                while (answer := await ask(host, secret)).status_code == 503:
                    counts[-1] += 1
                last.append(answer)
            return counts

        last: list[httpx.Response] = []
        for host in HOSTS[:2]:
            await until_told(f"http://{host}:{port}", 2)
        assert await let_in(secrets[0]) == [4, 4]
        words = "has used up its share of 8 requests per minute, which is 4, at this front door"
        for answer in last:
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
            assert words in answer.json()["detail"]
            assert answer.headers["connection"] == "close", "the next one may lead to another front door"
        backends[0].words = "leaving"
        for host in HOSTS[:2]:
            await until_told(f"http://{host}:{port}", 1)
        last.clear()
        assert await let_in(secrets[1]) == [8, 8], "the one that leaves is sent nothing any more"
        assert "connection" not in last[-1].headers
        names.addresses = []
        assert await let_in(secrets[2]) == [8, 8], "what is not known has not changed"


async def until_told(url: str, doors: int) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient() as client:
        while f"jitney_gateway_front_doors {doors}.0" not in (await client.get(f"{url}/metrics")).text:
            await asyncio.sleep(0.05)


async def test_an_abort_that_finds_its_question_somewhere_is_waited_with_nowhere(names: Names, rig: Rig):
    """Not at a third one either, which had no such question. Where none had it, all wait."""
    port = ports.free(1)[0]
    async with contextlib.AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(served(rig.app))
        for host in HOSTS:
            application = app.make(Fixed(model("fake", READY, runtime)), Catalogue.read(), peers=Peers(f"{NAME}:{port}"))
            await stack.enter_async_context(served(application, host, port))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=30))

        async def ask(host: str, tokens: int) -> int:
            asked = {"model": "fake", **PROMPTS[CHAT], "max_tokens": tokens, "request_id": "mine"}
            return (await client.post(f"http://{host}:{port}{CHAT}", json=asked)).status_code

        async def abort() -> str:
            path = f"http://{HOSTS[1]}:{port}/v1/models/fake/requests/mine/abort"
            return str((await client.post(path, json={"block_duration": 30})).json()["msg"])

        rig.runner.gate = threading.Semaphore(3)
        asking = asyncio.create_task(ask(HOSTS[0], 50))
        await until(lambda: len(rig.runner.batches) == 3)
        assert await abort() == "DONE"
        assert await asking == 499
        rig.runner.gate.release(1000)
        assert [await ask(host, 1) for host in HOSTS] == [200] * 3
        assert await abort() == "NOT_FOUND"
        assert [await ask(host, 1) for host in HOSTS] == [499] * 3
        assert await abort() == "DONE"
        assert [await ask(host, 1) for host in HOSTS] == [200] * 3, "the name is free everywhere"
        assert await abort() == "NOT_FOUND"
        assert await ask(HOSTS[1], 1) == 499
        assert await abort() == "DONE", "it was refused where the abort comes"
        assert [await ask(host, 1) for host in HOSTS] == [200] * 3, "the name is free everywhere"


class Late(Peers):
    """One of them gets the question just after it was asked for the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    async def abort(self, client: aiohttp.ClientSession, request: Request, seconds: float) -> bool:
        self.asked.append(seconds)
        return seconds > 0


async def test_an_abort_that_finds_its_question_at_the_second_look_is_waited_with_nowhere(rig: Rig):
    peers = Late()
    async with (
        served(rig.app) as runtime,
        served(app.make(Fixed(model("fake", READY, runtime)), Catalogue.read(), peers=peers)) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as client,
    ):
        told = await client.post("/v1/models/fake/requests/mine/abort", json={"block_duration": 30})
        assert (told.json(), peers.asked) == ({"msg": "DONE"}, [0, 30, 0])
        asked = {"model": "fake", **PROMPTS[CHAT], "max_tokens": 1, "request_id": "mine"}
        assert (await client.post(CHAT, json=asked)).status_code == 200
