"""`jitney bench`: chats at the same time against one model, and how long they take. Never more than it was told to."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import httpx
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from jitney_gateway.cli.client import Client, Failed, detail, event_of
from jitney_gateway.cli.endpoint import connect
from jitney_gateway.cli.options import Endpoint, Key, Output, Uid
from jitney_gateway.cli.output import Form, err, fail, out, say, show, table

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
PROMPT = "Tell me a story about a bus."


@dataclass(frozen=True)
class Chat:
    """One that was answered; seconds since its question was sent. `gaps` are between the pieces of its answer."""

    first: float
    whole: float
    tokens: int
    gaps: tuple[float, ...]


@dataclass
class Figures:
    """Of one run."""

    chats: list[Chat] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    unfinished: int = 0
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        return sum(chat.tokens for chat in self.chats)

    def times(self) -> dict[str, dict[str, float]]:
        """Percentiles of each kind of time, in seconds, and of the speed of single answers."""
        kinds: dict[str, list[float]] = {
            "first_token_seconds": [chat.first for chat in self.chats],
            "between_tokens_seconds": [gap for chat in self.chats for gap in chat.gaps],
            "answer_seconds": [chat.whole for chat in self.chats],
        }
        return {kind: {name: percentile(values, share) for name, share in SHARES.items()} for kind, values in kinds.items() if values}

    def told(self) -> dict[str, Any]:
        rates = {"tokens_per_second": self.tokens / self.seconds, "chats_per_second": len(self.chats) / self.seconds}
        counts = {"answered": len(self.chats), "failed": self.failures.total(), "unfinished": self.unfinished, "tokens": self.tokens}
        return {**counts, "seconds": self.seconds, **rates, **self.times(), "failures": dict(self.failures)}


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that `share` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def bench(
    model_uid: Uid,
    endpoint: Endpoint = None,
    chats: Annotated[int, typer.Option("--chats", min=1, max=10_000, help="How many in all.")] = 32,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, max=1000, help="How many at the same time.")] = 8,
    max_tokens: Annotated[int, typer.Option("--max_tokens", "--max-tokens", min=1, max=100_000, help="Of each answer.")] = 64,
    prompt: Annotated[str, typer.Option("--prompt", help="The question; each chat gets a number before it.")] = PROMPT,
    seconds: Annotated[float, typer.Option("--seconds", min=1, max=3600, help="When to end, whatever is done by then.")] = 120,
    output: Output = Form.TABLE,
    api_key: Key = None,
) -> None:
    """Measure a model: time to the first token, between tokens and to the end, and tokens per second."""
    concurrency = min(concurrency, chats)
    try:
        client = connect(endpoint, api_key)
        client.describe(model_uid)
        bodies = [
            {
                "model": model_uid,
                # A number of its own: an answer from what another chat has left would be none.
                "messages": [{"role": "user", "content": f"{number}. {prompt}"}],
                "max_tokens": max_tokens,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            for number in range(1, chats + 1)
        ]
        figures = asyncio.run(_run(client, bodies, concurrency, seconds))
    except Failed as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped before it was done", 130)
    _report(figures, {"model": model_uid, "concurrency": concurrency, "max_tokens": max_tokens}, output)


async def _run(client: Client, bodies: list[dict[str, Any]], concurrency: int, seconds: float) -> Figures:
    figures, left = Figures(), iter(bodies)
    limits = httpx.Limits(max_connections=concurrency)
    # Of what is late the end is known; a chat may wait for its turn until then.
    async with httpx.AsyncClient(
        base_url=client.endpoint, headers=client.headers, timeout=seconds, limits=limits, trust_env=client.trust_env
    ) as http:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
            task = bar.add_task("chats", total=len(bodies))

            async def one_after_the_other() -> None:
                for body in left:
                    await _count(http, body, figures)
                    bar.advance(task)

            begun = time.monotonic()
            riders = [asyncio.create_task(one_after_the_other()) for _ in range(concurrency)]
            await asyncio.wait(riders, timeout=seconds)
            figures.seconds = time.monotonic() - begun
            for rider in riders:
                rider.cancel()
            await asyncio.gather(*riders, return_exceptions=True)
    figures.unfinished = len(bodies) - len(figures.chats) - figures.failures.total()
    return figures


async def _count(http: httpx.AsyncClient, body: dict[str, Any], figures: Figures) -> None:
    try:
        figures.chats.append(await _chat(http, body))
    except Failed as error:
        figures.failures[str(error)] += 1
        # Whoever is refused at once would be refused all at once.
        await asyncio.sleep(0.1)


async def _chat(http: httpx.AsyncClient, body: dict[str, Any]) -> Chat:
    begun = time.monotonic()
    times: list[float] = []
    tokens = 0
    try:
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.status_code != 200:
                await answer.aread()
                raise Failed(detail(answer))
            async for line in answer.aiter_lines():
                event = event_of(line)
                if event is None:
                    break
                if any(choice["delta"].get("content") for choice in event.get("choices", ())):
                    times.append(time.monotonic() - begun)
                tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            else:
                raise Failed("the answer ended before its end")
    except httpx.HTTPError as error:
        raise Failed(str(error) or type(error).__name__) from error
    whole = time.monotonic() - begun
    gaps = tuple(later - earlier for earlier, later in itertools.pairwise(times))
    return Chat(times[0] if times else whole, whole, tokens or len(times), gaps)


def _report(figures: Figures, asked: dict[str, Any], output: Form) -> None:
    """Ends with 1 where not every chat was answered."""
    told = asked | figures.told()
    titles = {"first_token_seconds": "time to first token", "between_tokens_seconds": "between tokens", "answer_seconds": "whole answer"}
    rows = [(title, *(_time(told[kind][name]) for name in SHARES)) for kind, title in titles.items() if kind in told]
    if output is Form.TABLE:
        out.print(
            f"{asked['model']}: {told['answered']} chats answered, {asked['concurrency']} at the same time, "
            f"{told['tokens']} tokens in {told['seconds']:.1f} s"
        )
        out.print(f"throughput: {told['tokens_per_second']:.1f} tokens/s, {told['chats_per_second']:.2f} chats/s")
    if rows or output is not Form.TABLE:
        show(told, output, table("", *SHARES, rows=rows))
    for sentence, count in figures.failures.most_common():
        say(f"error: {count} failed: {sentence}")
    if figures.unfinished:
        say(f"error: {figures.unfinished} were not done after {figures.seconds:.0f} s")
    if figures.failures or figures.unfinished:
        raise typer.Exit(1)


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
