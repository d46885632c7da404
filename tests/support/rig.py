"""A server of fake words over the real HTTP application and the real AsyncEngine, through the ASGI interface."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import httpx

from jitney_runtime.engine.async_engine import AsyncEngine
from jitney_runtime.engine.engine_thread import InProcess
from jitney_runtime.server.app import create_app
from jitney_runtime.server.metrics import Metrics
from jitney_runtime.server.state import ServerState, Serving
from jitney_runtime.settings import RuntimeSettings
from support.engine import make_engine
from support.words import ByteTokenizer

HI = [{"role": "user", "content": "hi"}]
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
# To either route: eight tokens, the same ones.
PROMPTS: dict[str, dict[str, Any]] = {CHAT: {"messages": HI}, COMPLETION: {"prompt": "user:hi\n"}}


class Rig:
    """Two rows, two places to wait, a context of 64 tokens. The runner draws bytes under 90, so that answers are plain characters."""

    def __init__(self, blocks: int = 64, **settings: Any) -> None:
        self.state = ServerState(RuntimeSettings("fake", "fake", **settings), Metrics("fake"))
        self.engine, self.runner = make_engine(blocks=blocks, block_size=4, max_num_seqs=2, token_budget=64, max_model_len=64)
        self.runner.highest = 90
        self.tokenizer = ByteTokenizer()
        self.async_engine = AsyncEngine(InProcess(self.engine), max_waiting=2, observer=self.state.metrics)
        self.app = create_app(self.state)
        # As with a real server, an error that nobody expected is an answer and not an exception of the client's.
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://jitney")

    def start(self) -> None:
        self.async_engine.start()
        self.state.serving = Serving(self.async_engine, self.tokenizer)

    async def stop(self) -> None:
        if self.runner.gate:
            self.runner.gate.release(1000)
        self.async_engine.stop()
        await self.client.aclose()

    async def ask(self, route: str, **body: Any) -> httpx.Response:
        return await self.client.post(route, json={"model": "fake", **PROMPTS[route], "temperature": 0, **body})

    async def chat(self, **body: Any) -> httpx.Response:
        return await self.ask(CHAT, **body)

    async def complete(self, **body: Any) -> httpx.Response:
        return await self.ask(COMPLETION, **body)

    async def post(self, body: bytes, kind: str = "application/json", route: str = CHAT) -> httpx.Response:
        """Any body at all."""
        return await self.client.post(route, content=body, headers={"content-type": kind})

    async def text(self, **body: Any) -> str:
        answer = await self.chat(**body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    def metric(self, name: str, **labels: str) -> float:
        return self.state.metrics.registry.get_sample_value(name, {"model_name": "fake", **labels}) or 0.0


def chunks(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a whole stream; `[DONE]` has to be the last one, unless an error is."""
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    bodies = [json.loads(event) for event in events if event != "[DONE]"]
    assert events[-1] == "[DONE]" or "error" in bodies[-1], events[-1]
    return bodies


class Visitor:
    """One request over raw ASGI, whose client can go away."""

    def __init__(self, rig: Rig, route: str = CHAT, **body: Any) -> None:
        self._route = route
        self._body = json.dumps({"model": "fake", **PROMPTS[route], "temperature": 0, **body}).encode()
        self._gone = asyncio.Event()
        self._asked = False
        self.request = asyncio.create_task(rig.app(self._scope(), self._receive, self._send))

    async def leave(self) -> None:
        self._gone.set()
        await until(self.request.done)

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        """Nobody reads."""

    def _scope(self) -> dict[str, Any]:
        where = {"type": "http", "method": "POST", "path": self._route, "query_string": b"", "root_path": ""}
        headers = [(b"content-type", b"application/json")]
        # uvicorn speaks this version of ASGI: who listens hears of a client that left.
        version = {"http_version": "1.1", "asgi": {"version": "3.0", "spec_version": "2.3"}}
        return where | version | {"headers": headers, "scheme": "http", "server": ("jitney", 80), "client": ("x", 1)}


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)
