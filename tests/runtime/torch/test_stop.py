"""SIGTERM to the real process: while it starts, while it answers, and when an answer outlasts the drain. Always exit code 0."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.models import smollm2_folder
from support.process import RuntimeProcess, running_runtime
from support.stuck import downloading_for_ever

CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "Count to a thousand."}], "temperature": 0, "ignore_eos": True}
SERVE = ("--model", str(smollm2_folder()), "--served-model-name", "smollm2", "--max-model-len", "2048", "--device", "cpu")


def wait_for(condition: Callable[[], Any], runtime: RuntimeProcess, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain:\n{runtime.log}"
        time.sleep(0.01)


def handles_sigterm(runtime: RuntimeProcess) -> bool:
    """Bit 14 of the caught signals: signal 15."""
    lines = Path(f"/proc/{runtime.process.pid}/status").read_text().splitlines()
    caught = next(line.split()[1] for line in lines if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> 14 & 1)


def test_as_soon_as_it_runs(tmp_path: Path):
    """Process 1 of a container would ignore the signal while nobody handles it, and be killed much later."""
    with running_runtime(tmp_path, *SERVE) as runtime:
        wait_for(lambda: "pydantic_core" in Path(f"/proc/{runtime.process.pid}/maps").read_text(), runtime)
        assert handles_sigterm(runtime), "the imports are under way and the signal has no handler"
        runtime.terminate()
        assert runtime.wait_exit(30) == 0


def test_while_it_loads(tmp_path: Path):
    """The weights never come: nobody waits for the thread that waits for them."""
    with downloading_for_ever(tmp_path) as (runtime, hub):
        assert runtime.ready_status()["status"] == "starting"  # type: ignore[index]
        runtime.terminate()
        assert runtime.wait_exit(30) == 0
        assert not hub.released.is_set()
        assert not (tmp_path / "termination").exists()


async def events(lines: AsyncIterator[str]) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) async for line in lines if line.startswith("data: {")]


async def refused_when_heard(url: str) -> None:
    """A server that hung up on what is still being sent would take its answer back with it."""
    address = httpx.URL(url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.2)
    writer.write(b"{}")
    assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
    writer.close()


async def test_while_it_answers(tmp_path: Path):
    """Readiness goes at once, requests are taken for a while and then refused, and whoever was let in is answered.

    One client sends half of its request before the signal and the rest when others are refused, so that it is in however fast answers are.
    """
    refusing = asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        body = json.dumps(CHAT | {"max_tokens": 5}).encode()
        yield body[:20]
        await refusing.wait()
        yield body[20:]

    with running_runtime(tmp_path, *SERVE, "--drain-seconds", "250") as runtime:
        await asyncio.to_thread(runtime.wait_ready)
        url = f"{runtime.url}/v1/chat/completions"
        async with httpx.AsyncClient(timeout=120) as client:
            json_type = {"content-type": "application/json"}
            slow = asyncio.create_task(client.post(url, content=slow_body(), headers=json_type))
            async with client.stream("POST", url, json=CHAT | {"max_tokens": 250, "stream": True}) as stream:
                lines = stream.aiter_lines()
                await anext(lines)
                runtime.terminate()
                while (ready := await client.get(f"{runtime.url}/readyz")).status_code == 200:
                    await asyncio.sleep(0.01)
                assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
                taken = 0
                while (late := await client.post(url, json=CHAT | {"max_tokens": 2})).status_code == 200:
                    taken += 1
                    await asyncio.sleep(0.1)
                assert taken > 0
                assert (late.status_code, late.headers["connection"]) == (503, "close")
                assert (await client.get(f"{runtime.url}/livez")).status_code == 200
                await refused_when_heard(runtime.url)
                chunks = await events(lines)
                assert chunks[-1]["choices"][0]["finish_reason"] == "length"
            assert runtime.process.poll() is None
            refusing.set()
            assert (await slow).json()["usage"]["completion_tokens"] == 5
        assert await asyncio.to_thread(runtime.wait_exit, 30) == 0


async def test_an_answer_that_outlasts_the_drain_is_told_so(tmp_path: Path):
    with running_runtime(tmp_path, *SERVE, "--drain-seconds", "1") as runtime:
        await asyncio.to_thread(runtime.wait_ready)
        url = f"{runtime.url}/v1/chat/completions"
        async with httpx.AsyncClient(timeout=120) as client:
            whole = asyncio.create_task(client.post(url, json=CHAT))
            async with client.stream("POST", url, json=CHAT | {"stream": True}) as stream:
                lines = stream.aiter_lines()
                await anext(lines)
                runtime.terminate()
                *_, last = await events(lines)
            assert last["error"]["code"] == "unavailable"
            assert ((await whole).status_code, (await whole).json()["error"]["code"]) == (503, "unavailable")
        assert await asyncio.to_thread(runtime.wait_exit, 30) == 0
