"""The HTTP side over a real AsyncEngine with the fake runner: shapes, refusals, disconnects, drain. Through the ASGI interface."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from jitney_runtime.engine.async_engine import AsyncEngine
from jitney_runtime.server.app import create_app
from jitney_runtime.server.metrics import Metrics
from jitney_runtime.server.state import ServerState, Serving
from jitney_runtime.settings import RuntimeSettings
from support.engine import make_engine
from support.words import ByteTokenizer

HI = [{"role": "user", "content": "hi"}]


class Rig:
    """A server of fake words: its client, its state and its runner. `bytes_only` keeps the fake tokens inside the byte tokenizer."""

    def __init__(self, **settings: Any) -> None:
        self.state = ServerState(RuntimeSettings("fake", "fake", **settings), Metrics("fake"))
        self.engine, self.runner = make_engine(blocks=64, block_size=4, max_num_seqs=2, token_budget=64, max_model_len=64)
        self.runner.vocabulary = 90
        self.async_engine = AsyncEngine(self.engine, max_waiting=2, observer=self.state.metrics)
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(create_app(self.state)), base_url="http://jitney")

    def start(self) -> None:
        self.async_engine.start()
        self.state.serving = Serving(self.async_engine, ByteTokenizer())

    async def chat(self, **body: Any) -> httpx.Response:
        return await self.client.post("/v1/chat/completions", json={"model": "fake", "messages": HI, "temperature": 0, **body})

    def metric(self, name: str, **labels: str) -> float:
        return self.state.metrics.registry.get_sample_value(name, {"model_name": "fake", **labels}) or 0.0


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    rig.start()
    yield rig
    if rig.runner.gate:
        rig.runner.gate.release(1000)
    rig.async_engine.stop()
    await rig.client.aclose()


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.005)


async def test_a_whole_answer(rig: Rig):
    answer = await rig.chat(max_tokens=5)
    body = answer.json()
    assert answer.status_code == 200
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert len(body["choices"][0]["message"]["content"]) == 5
    assert body["usage"] == {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}


async def test_a_streamed_answer_says_the_same(rig: Rig):
    whole = (await rig.chat(max_tokens=5)).json()["choices"][0]["message"]["content"]
    answer = await rig.chat(max_tokens=5, stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line) for line in lines]
    usage = chunks.pop()
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 5)
    assert all(chunk["usage"] is None and chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == whole
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "length"]
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_a_stop_string_ends_the_answer_before_it_and_frees_the_row(rig: Rig):
    whole = (await rig.chat(max_tokens=12)).json()["choices"][0]["message"]["content"]
    choice = (await rig.chat(max_tokens=50, stop=[whole[4:6]])).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == whole[: whole.index(whole[4:6])]
    await until(lambda: not rig.engine.has_work)


@pytest.mark.parametrize(
    ("body", "param", "said"),
    [
        ({"temperature": -1}, "temperature", "greater than or equal to 0"),
        ({"temperature": "warm"}, "temperature", "valid number"),
        ({"top_p": 0}, "top_p", "greater than 0"),
        ({"top_p": 1.5}, "top_p", "less than or equal to 1"),
        ({"top_k": -2}, "top_k", "greater than or equal to -1"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"max_tokens": 100}, "max_tokens", "leaves 56 tokens"),
        ({"max_completion_tokens": 100}, "max_completion_tokens", "leaves 56 tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens", "give one"),
        ({"seed": "x"}, "seed", "valid integer"),
        ({"stop": [""]}, "stop", "at least 1 character"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "'system'"),
        ({"messages": [{"role": "user", "content": "x" * 80}]}, "messages", "context window 64"),
        ({"tools": [{"type": "function"}]}, None, "tools is not served yet"),
        ({"n": 2}, None, "n is not served yet"),
        ({"stream_options": {"include_usage": True}}, None, "stream: true"),
    ],
)
async def test_a_bad_request_is_400_with_the_fields_name(rig: Rig, body: dict[str, Any], param: str | None, said: str):
    answer = await rig.chat(**body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert said in error["message"]
    assert (error["param"] or "").startswith(param or "")
    assert set(error) == {"message", "type", "param", "code"}
    assert (await rig.chat(max_tokens=2)).status_code == 200


async def test_an_unknown_model_is_404_and_an_unknown_path_too(rig: Rig):
    answer = await rig.chat(model="other")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert (await rig.client.get("/v2/nothing")).status_code == 404


async def test_broken_json_is_400(rig: Rig):
    answer = await rig.client.post("/v1/chat/completions", content=b"{not json", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_a_full_queue_is_429_and_the_others_finish(rig: Rig):
    rig.runner.gate = threading.Semaphore(0)
    taken = [asyncio.create_task(rig.chat(max_tokens=3)) for _ in range(4)]
    await until(lambda: rig.async_engine.pending == 4)
    refused = await rig.chat(max_tokens=3)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert refused.json()["error"]["code"] == "overloaded"
    rig.runner.gate.release(1000)
    assert {answer.status_code for answer in await asyncio.gather(*taken)} == {200}
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in await asyncio.gather(*taken)}) == 1


async def leave_early(rig: Rig, stream: bool) -> None:
    """Send a request through raw ASGI, take the first tokens, and go away."""
    rig.runner.gate = threading.Semaphore(3)
    body = json.dumps({"model": "fake", "messages": HI, "max_tokens": 50, "stream": stream}).encode()
    gone = asyncio.Event()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pass

    headers = [(b"content-type", b"application/json")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": headers,
        "query_string": b"",
        "http_version": "1.1",
    }
    scope |= {
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "scheme": "http",
        "server": ("jitney", 80),
        "client": ("x", 1),
        "root_path": "",
    }
    request = asyncio.create_task(create_app(rig.state)(scope, receive, send))
    await until(lambda: len(rig.runner.batches) == 3)
    gone.set()
    await until(request.done)


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "whole"])
async def test_a_client_that_goes_away_frees_its_sequence_within_one_step(rig: Rig, stream: bool):
    await leave_early(rig, stream)
    steps = len(rig.runner.batches)
    assert rig.runner.gate is not None
    rig.runner.gate.release(1000)
    await until(lambda: not rig.engine.has_work and rig.async_engine.pending == 0)
    assert len(rig.runner.batches) - steps <= 1
    assert rig.engine.scheduler.pool.free == rig.engine.scheduler.pool.count
    assert rig.metric("jitney_requests_total", finish_reason="abort") == 1
    assert rig.state.active_answers == 0


async def test_a_failing_step_is_500_for_its_own_requests_only(rig: Rig):
    # The first prompt token tells the request that the runner refuses from all others.
    rig.runner.fail_when = lambda batch: any(row.start == 0 and len(row.tokens) > 20 for row in batch.rows)
    bad = await rig.chat(messages=[{"role": "user", "content": "x" * 30}], max_tokens=2)
    assert (bad.status_code, bad.json()["error"]["code"]) == (500, "engine_error")
    assert (await rig.chat(max_tokens=2)).status_code == 200


async def test_a_dead_engine_fails_liveness_and_answers_503():
    rig = Rig()
    rig.start()
    rig.runner.fail_when = lambda batch: True
    for _ in range(3):
        assert (await rig.chat(max_tokens=2)).status_code == 500
    await until(lambda: not rig.async_engine.alive)
    assert (await rig.client.get("/livez")).status_code == 503
    assert (await rig.client.get("/readyz")).json()["status"] == "failed"
    assert (await rig.chat()).status_code == 503
    await rig.client.aclose()


async def test_before_the_model_is_there():
    rig = Rig()
    rig.state.progress.downloading(1_200_000_000, 3_100_000_000)
    ready = await rig.client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json() == {"status": "starting", "reason": "Downloading", "progress": "downloading 1.2/3.1 GB"}
    assert (await rig.client.get("/livez")).status_code == 200
    answer = await rig.chat()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_draining_fails_readiness_first_and_refuses_later(rig: Rig):
    assert (await rig.client.get("/readyz")).json() == {"status": "ready"}
    rig.state.draining = True
    assert (await rig.client.get("/readyz")).status_code == 503
    assert (await rig.chat(max_tokens=1)).status_code == 200
    rig.state.refusing = True
    refused = await rig.chat(max_tokens=1)
    assert (refused.status_code, refused.headers["connection"]) == (503, "close")
    assert (await rig.client.get("/livez")).status_code == 200


@pytest.mark.parametrize(
    ("header", "status"), [({}, 401), ({"Authorization": "Bearer wrong"}, 401), ({"Authorization": "Bearer right"}, 200)]
)
async def test_the_key(header: dict[str, str], status: int):
    rig = Rig(api_key="right")
    rig.start()
    answer = await rig.client.get("/v1/models", headers=header)
    assert answer.status_code == status
    assert (await rig.client.get("/readyz")).status_code == 200
    rig.async_engine.stop()
    await rig.client.aclose()


async def test_models_and_metrics(rig: Rig):
    await rig.chat(max_tokens=4)
    (model,) = (await rig.client.get("/v1/models")).json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("fake", "model", 64)
    await until(lambda: rig.metric("jitney_generation_tokens_total") == 4)
    assert rig.metric("jitney_prompt_tokens_total") == 8
    assert rig.metric("jitney_step_seconds_count") == 4
    assert rig.metric("jitney_queue_seconds_count") == 1
    assert rig.metric("jitney_time_to_first_token_seconds_count") == 1
    assert rig.metric("jitney_inter_token_latency_seconds_count") == 3
    assert rig.metric("jitney_requests_total", finish_reason="length") == 1
    text = (await rig.client.get("/metrics")).text
    for name in (
        "requests_running",
        "requests_waiting",
        "kv_cache_usage_ratio",
        "batch_size_bucket",
        "preemptions_total",
        "model_load_seconds",
    ):
        assert f"jitney_{name}{{" in text
