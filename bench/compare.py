"""The runtime against `transformers serve --continuous-batching`: same model, machine and run, 1 and 16 concurrent chats.

Rounds of the two servers alternate and every round has prompts of its own, so that neither the machine's mood nor a prompt cache decides.
Ratios are medians over the rounds. Both servers run in float32 with as many threads as this process may use.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx

sys.path.insert(0, str(Path(__file__).parents[1] / "e2e"))
from test_model import model_folder

from cluster import ports

NEW_TOKENS = 64
ROUNDS = 3
# What the ratio at 16 concurrent chats must be.
LEAST = 2.0
TOPICS = (
    "a bus that stops everywhere",
    "the sea at night",
    "a clock that runs backwards",
    "bread",
    "an honest thief",
    "rain",
    "glass",
    "maps",
)


@dataclass(frozen=True)
class Server:
    name: str
    url: str
    model: str


@dataclass(frozen=True)
class Round:
    """One round of one server: tokens per second over all chats, and the median seconds to the first token."""

    tokens_per_second: float
    first_token: float


def main() -> None:
    folder = str(model_folder())
    logs = Path(os.environ.get("TMPDIR", "/tmp"))
    with ExitStack() as stack:
        servers = [stack.enter_context(_jitney(folder, logs)), stack.enter_context(_transformers(folder, logs))]
        results = {chats: _measure(servers, chats) for chats in (1, 16)}
    ratio = _print_table(servers, results)
    if ratio < LEAST:
        sys.exit(f"error: {ratio:.2f}x at 16 concurrent chats, and {LEAST}x is what this project holds itself to")


@contextmanager
def _jitney(folder: str, logs: Path) -> Iterator[Server]:
    # One that somebody else listens on would be measured in its place.
    port = ports.free(1)[0]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "jitney_runtime", "--model", folder, "--served-model-name", "smollm2", "--port", str(port)]
    with _running(command, logs / "bench-jitney.log", f"{url}/readyz", "jitney"):
        yield Server("jitney", url, "smollm2")


@contextmanager
def _transformers(folder: str, logs: Path) -> Iterator[Server]:
    program = str(Path(sys.executable).parent / "transformers")
    port = ports.free(1)[0]
    url = f"http://127.0.0.1:{port}"
    command = [program, "serve", folder, "--continuous-batching", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    with _running(command, logs / "bench-transformers.log", f"{url}/health", "transformers serve"):
        yield Server("transformers serve", url, folder)


@contextmanager
def _running(command: list[str], log: Path, ready: str, name: str) -> Iterator[None]:
    print(f"starting {name}", flush=True)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        try:
            _wait_ready(process, ready, log)
            yield
        finally:
            process.kill()
            process.wait()


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
        try:
            if httpx.get(url, timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"{process.args} was not ready after 300 s:\n{log.read_text()[-3000:]}")


def _measure(servers: list[Server], chats: int) -> dict[str, list[Round]]:
    """One warm-up round, then ROUNDS counted ones, the servers taking turns."""
    results: dict[str, list[Round]] = {server.name: [] for server in servers}
    for number in range(ROUNDS + 1):
        for server in servers:
            found = asyncio.run(_round(server, chats))
            label = f"round {number}" if number else "warm-up"
            print(
                f"{chats:2} chats, {label}, {server.name}: {found.tokens_per_second:.0f} tok/s, first token {found.first_token:.2f} s",
                flush=True,
            )
            if number:
                results[server.name].append(found)
    return results


async def _round(server: Server, chats: int) -> Round:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600)) as client:
        started = time.perf_counter()
        streams = await asyncio.gather(*(_chat(client, server, number) for number in range(chats)))
        seconds = time.perf_counter() - started
    answers = [_read(stream) for stream in streams]
    return Round(sum(tokens for tokens, _ in answers) / seconds, statistics.median(first for _, first in answers))


async def _chat(client: aiohttp.ClientSession, server: Server, number: int) -> list[tuple[float, bytes]]:
    """What came, and when: read after the clock has stopped, so that the servers do not pay for the reader on the same cores.

    The prompt starts with something never seen, and asks for more than NEW_TOKENS tokens.
    """
    question = f"[{uuid.uuid4().hex[:8]}] Write a long story about {TOPICS[number % len(TOPICS)]}, with many turns and no early end."
    body = {
        "model": server.model,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": NEW_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = time.perf_counter()
    async with client.post(f"{server.url}/v1/chat/completions", json=body) as answer:
        if answer.status != 200:
            raise SystemExit(f"{server.name}: HTTP {answer.status}: {(await answer.text())[:500]}")
        return [(time.perf_counter() - started, data) async for data in answer.content.iter_any()]


def _read(stream: list[tuple[float, bytes]]) -> tuple[int, float]:
    """Tokens of an answer and seconds to the first. A piece may hold several tokens; a server that counts them itself is believed."""
    first, pieces, counted, rest = 0.0, 0, None, b""
    for seconds, data in stream:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data: {"):
                continue
            chunk: dict[str, Any] = json.loads(line[6:])
            choices = chunk.get("choices") or []
            if choices and choices[0].get("delta", {}).get("content"):
                first = first or seconds
                pieces += 1
            counted = (chunk.get("usage") or {}).get("completion_tokens") or counted
    return counted or pieces, first


def _print_table(servers: list[Server], results: dict[int, dict[str, list[Round]]]) -> float:
    """Returns the ratio of the last row, which has the most chats."""
    ours, peer = (server.name for server in servers)
    print(
        f"\n| concurrent chats | {ours} tok/s | {peer} tok/s | ratio | {ours} first token | {peer} first token |\n|---|---|---|---|---|---|"
    )
    for chats, rounds in results.items():
        pairs = list(zip(rounds[ours], rounds[peer], strict=True))
        ratio = statistics.median(one.tokens_per_second / other.tokens_per_second for one, other in pairs)
        speed = [statistics.median(found.tokens_per_second for found in rounds[name]) for name in (ours, peer)]
        first = [statistics.median(found.first_token for found in rounds[name]) for name in (ours, peer)]
        print(f"| {chats} | {speed[0]:.0f} | {speed[1]:.0f} | {ratio:.2f}x | {first[0]:.2f} s | {first[1]:.2f} s |")
    return ratio


if __name__ == "__main__":
    main()
