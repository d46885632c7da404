"""From a client through the front door to a runtime and back: both real, over real connections, with words that are fake."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from jitney_gateway.catalogue import Catalogue
from jitney_gateway.errors import GatewayError
from jitney_gateway.model import ERROR, LOADING, READY
from jitney_gateway.server import app
from jitney_gateway.server.peers import Peers
from jitney_gateway.server.questions import Questions
from support.fixed import Fixed, model
from support.rig import CHAT, COMPLETION, PROMPTS, Rig, until
from support.serving import served

either = pytest.mark.parametrize("route", [CHAT, COMPLETION])
both = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


@pytest.fixture
async def door(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the front door, behind which `fake` is the rig."""
    async with served(rig.app) as runtime:
        models = Fixed(
            model("fake", READY, runtime),
            model("gone", READY),
            model("coming", LOADING, message="loading 40 %"),
            model("broken", ERROR, message="OutOfMemory: too big"),
        )
        async with served(app.make(models, Catalogue.read())) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield client


def body(route: str, **more: Any) -> dict[str, Any]:
    return {"model": "fake", **PROMPTS[route], "temperature": 0, **more}


def without_names(text: str) -> list[Any]:
    """The JSON of an answer or of its events, but for what differs between two answers."""
    found = [json.loads(line.removeprefix("data: ")) for line in text.split("\n") if line and not line.endswith("[DONE]")]
    return [{name: value for name, value in part.items() if name not in ("id", "created")} for part in found]


@either
@both
async def test_the_runtimes_answer_comes_back_as_it_is(door: httpx.AsyncClient, rig: Rig, route: str, stream: bool):
    straight = await rig.ask(route, max_tokens=9, stream=stream)
    led = await door.post(route, json=body(route, max_tokens=9, stream=stream, request_id="r"))
    assert (led.status_code, led.headers["content-type"]) == (200, straight.headers["content-type"])
    assert without_names(led.text) == without_names(straight.text)
    assert led.text.endswith("data: [DONE]\n\n") is stream


@either
async def test_the_runtimes_refusals_come_back_too(door: httpx.AsyncClient, rig: Rig, route: str):
    refused = await door.post(route, json=body(route, temperature=9))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "temperature")
    rig.runner.gate = threading.Semaphore(0)
    taken = [asyncio.create_task(door.post(route, json=body(route, max_tokens=3))) for _ in range(4)]
    await until(lambda: rig.async_engine.pending == 4)
    full = await door.post(route, json=body(route))
    assert (full.status_code, full.headers["retry-after"], full.json()["error"]["code"]) == (429, "1", "overloaded")
    rig.runner.gate.release(1000)
    assert {answer.status_code for answer in await asyncio.gather(*taken)} == {200}


@either
@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        ({"model": "nobody"}, 404, "Model not found in the model list, uid: nobody; there are broken, coming, fake, gone"),
        ({"model": 5}, 400, "model: give the uid"),
        ({}, 400, "model: give the uid"),
        ([], 400, "model: give the uid"),
        ({"model": "coming"}, 503, "coming is starting: loading 40 %"),
        ({"model": "broken"}, 503, "broken cannot be served: OutOfMemory: too big"),
        ({"model": "gone"}, 503, "went away before it answered"),
    ],
)
async def test_what_no_runtime_can_answer(door: httpx.AsyncClient, route: str, sent: Any, status: int, words: str):
    answer = await door.post(route, json=sent)
    assert answer.status_code == status
    assert words in answer.json()["detail"]
    assert answer.json()["error"]["message"] == answer.json()["detail"]
    assert ("retry-after" in answer.headers) == (sent in ({"model": "coming"}, {"model": "gone"}))


@either
@both
async def test_a_client_that_goes_away_frees_its_row(door: httpx.AsyncClient, rig: Rig, route: str, stream: bool):
    """Before the first byte or in the middle: the runtime hears of it."""
    rig.runner.gate = threading.Semaphore(3)
    asking = asyncio.create_task(door.post(route, json=body(route, max_tokens=50, stream=stream)))
    await until(lambda: len(rig.runner.batches) == 3)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await until(lambda: rig.state.in_flight == 0)
    rig.runner.gate.release(1000)
    await until(lambda: not rig.engine.has_work and rig.async_engine.pending == 0)
    assert rig.metric("jitney_requests_total", finish_reason="abort") == 1
    assert len(rig.runner.batches) <= 5


@either
@both
async def test_an_abort_ends_the_question_by_its_name(door: httpx.AsyncClient, rig: Rig, route: str, stream: bool):
    rig.runner.gate = threading.Semaphore(3)
    asked = body(route, max_tokens=50, stream=stream, request_id="mine")
    asking = asyncio.create_task(door.post(route, json=asked))
    await until(lambda: len(rig.runner.batches) == 3)
    aborts = {name: f"/v1/models/{name}/requests/mine/abort" for name in ("fake", "nobody", "gone")}
    assert (await door.post(aborts["nobody"], json={"block_duration": 30})).json() == {"msg": "NO_OP"}
    assert (await door.post(aborts["gone"], json={})).json() == {"msg": "NOT_FOUND"}
    assert (await door.post(aborts["fake"], json={"block_duration": 30})).json() == {"msg": "DONE"}
    answer = await asking
    if stream:
        assert answer.status_code == 200
        assert "[DONE]" not in answer.text
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (499, "aborted")
    await until(lambda: rig.state.in_flight == 0)
    rig.runner.gate.release(1000)
    await until(lambda: rig.async_engine.pending == 0)
    assert (await door.post(route, json=asked | {"max_tokens": 2})).status_code == 200, "the name may be used again"


@either
@both
async def test_an_abort_that_comes_first_is_waited_with(door: httpx.AsyncClient, rig: Rig, route: str, stream: bool):
    """For `block_duration` seconds, as the client's documentation says it."""
    abort, asked = "/v1/models/fake/requests/early/abort", body(route, max_tokens=2, stream=stream, request_id="early")
    for block in (
        {},
        {"json": {"block_duration": 30}},
        {"json": {}},
        {"json": {"block_duration": None}},
        {"json": {"block_duration": 1.5}},
    ):
        assert (await door.post(abort, **block)).json() == {"msg": "NOT_FOUND"}
        refused = await door.post(route, json=asked)
        assert (refused.status_code, refused.json()["error"]["code"]) == (499, "aborted")
        assert refused.json()["detail"] == "the request was aborted before it came, by its request_id early"
        assert rig.metric("jitney_requests_total", finish_reason="length") == 0
        for told in ("DONE", "NOT_FOUND"):
            assert (await door.post(abort, json={"block_duration": 0})).json() == {"msg": told}
    assert (await door.post(route, json=asked)).status_code == 200
    assert (await door.post(abort, json={"block_duration": 1})).json() == {"msg": "NOT_FOUND"}
    async with asyncio.timeout(30):
        while (await door.post(route, json=asked)).status_code == 499:
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"block_duration": -1}, "block_duration: must be a number of seconds from 0 to 3600, not -1"),
        ({"block_duration": 3601}, "block_duration: must be"),
        ({"block_duration": True}, "block_duration: must be"),
        ({"block_duration": "30"}, "block_duration: must be"),
        ({"block_duration": float("nan")}, "block_duration: must be"),
        ({"block_duration": 1, "force": True}, "force: this is no parameter of an abort"),
        ([], "the body must be a JSON object"),
    ],
)
async def test_an_abort_that_is_not_understood(door: httpx.AsyncClient, sent: Any, words: str):
    answer = await door.post("/v1/models/fake/requests/x/abort", content=json.dumps(sent))
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(words)
    assert (await door.post(CHAT, json=body(CHAT, max_tokens=1, request_id="x"))).status_code == 200, "nothing is waited for"


@both
async def test_an_abort_may_reach_another_front_door(rig: Rig, stream: bool):
    """Which one a connection leads to is the Service's choice. One that is gone is no hindrance."""
    async with (
        served(rig.app) as runtime,
        served(app.make(Fixed(model("fake", READY, runtime)), Catalogue.read())) as first,
        served(app.make(Fixed(model("fake", READY, runtime)), Catalogue.read(), peers=Peers(first.removeprefix("http://")))) as second,
        served(app.make(Fixed(model("fake", READY, runtime)), Catalogue.read(), peers=Peers("127.0.0.1:9"))) as alone,
        httpx.AsyncClient(timeout=30) as client,
    ):
        rig.runner.gate = threading.Semaphore(3)
        asking = asyncio.create_task(client.post(f"{first}{CHAT}", json=body(CHAT, max_tokens=50, stream=stream, request_id="mine")))
        await until(lambda: len(rig.runner.batches) == 3)
        abort = "/v1/models/fake/requests/mine/abort"
        none = {"block_duration": 0}
        assert (await client.post(f"{alone}{abort}")).json() == {"msg": "NOT_FOUND"}
        assert (await client.post(f"{second}{abort}", headers={"x-jitney-peer": "1"}, json=none)).json() == {"msg": "NOT_FOUND"}
        assert (await client.post(f"{second}{abort}")).json() == {"msg": "DONE"}
        assert (await asking).status_code == (200 if stream else 499)
        rig.runner.gate.release(1000)
        await until(lambda: rig.async_engine.pending == 0)
        again = body(CHAT, max_tokens=1, request_id="mine")
        assert (await client.post(f"{second}{CHAT}", json=again)).status_code == 200, "what was found is waited for nowhere"
        assert (await client.post(f"{second}{abort}", json={"block_duration": 9})).json() == {"msg": "NOT_FOUND"}
        for address in (first, second):
            assert (await client.post(f"{address}{CHAT}", json=again)).status_code == 499, "wherever it comes"
        for told in ("DONE", "NOT_FOUND"):
            assert (await client.post(f"{second}{abort}", json=none)).json() == {"msg": told}, "its own and the other's"


@pytest.fixture
async def leaving(rig: Rig) -> AsyncIterator[tuple[httpx.AsyncClient, Questions]]:
    """A client of a front door whose questions may be ended, before a runtime that stops after three tokens."""
    questions = Questions(time.monotonic)
    async with (
        served(rig.app) as runtime,
        served(app.make(Fixed(model("fake", READY, runtime)), Catalogue.read(), questions=questions)) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as client,
    ):
        rig.runner.gate = threading.Semaphore(3)
        yield client, questions
        await until(lambda: rig.state.in_flight == 0)
        rig.runner.gate.release(1000)
        await until(lambda: rig.async_engine.pending == 0)


LEAVING = GatewayError(503, "this front door is leaving", code="leaving", retry_after=1)
TOLD = {"message": "this front door is leaving", "type": "server_error", "param": None, "code": "leaving"}


@either
@pytest.mark.parametrize("usage", [True, False])
async def test_a_stream_that_is_not_done_when_the_front_door_ends_says_so(
    leaving: tuple[httpx.AsyncClient, Questions], route: str, usage: bool
):
    """By an event of its own, of the shape that the clients take for an error, and no end that looks like a good one."""
    client, questions = leaving
    asked = body(route, max_tokens=50, stream=True, stream_options={"include_usage": usage})
    async with client.stream("POST", route, json=asked) as answer:
        lines = answer.aiter_lines()
        events = [await anext(lines)]
        questions.end_all(LEAVING)
        events += [line async for line in lines if line]
    assert answer.status_code == 200
    assert json.loads(events[-1].removeprefix("data: ")) == {"detail": TOLD["message"], "error": TOLD}
    assert "data: [DONE]" not in events


class Halfway:
    """A runtime whose answer comes to its middle, and no further until it is left."""

    def __init__(self, kind: str, piece: bytes) -> None:
        self.app, self.left = FastAPI(), asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield piece
                await asyncio.Event().wait()
            finally:
                self.left.set()

        @self.app.post(CHAT)
        async def answer() -> StreamingResponse:
            return StreamingResponse(pieces(), media_type=kind)


@pytest.mark.parametrize(
    ("kind", "piece", "ended_well"),
    [
        ("text/event-stream", b'data: {"choices": []}\n\n', True),
        ("text/event-stream", b'data: {"choices": []}\n\ndata: {"cho', False),
        ("application/json", b'{"choices": [', False),
        ("application/json", b'{"choices": [\n\n', False),
    ],
)
@pytest.mark.parametrize("why", ["aborted", "leaving"])
async def test_an_answer_that_is_ended_in_its_middle_has_no_good_end(kind: str, piece: bytes, ended_well: bool, why: str):
    """Its client would take it for the whole."""
    runtime, questions = Halfway(kind, piece), Questions(time.monotonic)
    async with (
        served(runtime.app) as address,
        served(app.make(Fixed(model("fake", READY, address)), Catalogue.read(), questions=questions)) as url,
        httpx.AsyncClient(base_url=url, timeout=30) as client,
    ):
        asked = body(CHAT, request_id="mine", stream=ended_well, stream_options={"include_usage": True})
        came = b""
        with nullcontext() if ended_well else pytest.raises(httpx.RemoteProtocolError):
            async with client.stream("POST", CHAT, json=asked) as answer:
                async for data in answer.aiter_bytes():
                    came += data
                    if came == piece and why == "leaving":
                        questions.end_all(LEAVING)
                    elif came == piece:
                        assert (await client.post("/v1/models/fake/requests/mine/abort")).json() == {"msg": "DONE"}
        assert came.startswith(piece)
        assert (b"this front door is leaving" in came) == (ended_well and why == "leaving")
        await asyncio.wait_for(runtime.left.wait(), 30)
        await asyncio.wait_for(questions.none(), 30)


async def test_what_is_under_way_may_be_aborted_where_nothing_is_begun_any_more(leaving: tuple[httpx.AsyncClient, Questions], rig: Rig):
    client, questions = leaving
    asking = asyncio.create_task(client.post(CHAT, json=body(CHAT, max_tokens=50, request_id="mine")))
    await until(lambda: len(rig.runner.batches) == 3)
    questions.close(LEAVING)
    refused = await client.post(CHAT, json=body(CHAT, max_tokens=1))
    assert (refused.status_code, refused.headers["retry-after"], refused.json()["error"]) == (503, "1", TOLD)
    assert refused.headers["connection"] == "close", "the next one leads to another front door"
    launch = {"model_engine": "transformers", "model_name": "smollm2-instruct", "model_size_in_billions": "0_135"}
    refused = await client.post("/v1/models", json=launch)
    assert (refused.status_code, refused.json()["error"]) == (503, TOLD), "before anything is made"
    assert (await client.post("/v1/models/fake/requests/mine/abort")).json() == {"msg": "DONE"}
    assert (await asking).status_code == 499


async def test_a_name_that_is_too_long_to_be_kept(door: httpx.AsyncClient):
    longest = "x" * 256
    assert (await door.post(CHAT, json=body(CHAT, max_tokens=1, request_id=longest))).status_code == 200
    for answer in (
        await door.post(CHAT, json=body(CHAT, max_tokens=1, request_id=longest + "x")),
        await door.post(f"/v1/models/fake/requests/{longest}x/abort"),
    ):
        assert (answer.status_code, answer.json()["detail"]) == (400, "request_id: may have 256 characters, and has 257")


@either
async def test_an_answer_that_has_not_begun_when_the_front_door_ends_is_refused(
    leaving: tuple[httpx.AsyncClient, Questions], rig: Rig, route: str
):
    client, questions = leaving
    asking = asyncio.create_task(client.post(route, json=body(route, max_tokens=50)))
    await until(lambda: len(rig.runner.batches) == 3)
    questions.end_all(LEAVING)
    for answer in (await asking, await client.post(route, json=body(route, max_tokens=50))):
        assert (answer.status_code, answer.headers["retry-after"], answer.json()["error"]) == (503, "1", TOLD)


async def test_a_question_with_the_same_name_is_not_forgotten_with_an_earlier_one(door: httpx.AsyncClient, rig: Rig):
    rig.runner.gate = threading.Semaphore(0)
    asked = []
    for number in (1, 2):
        asked.append(asyncio.create_task(door.post(CHAT, json=body(CHAT, max_tokens=40, request_id="same"))))
        await until(lambda number=number: rig.async_engine.pending == number)
    first, second = asked
    first.cancel()
    await until(lambda: rig.state.in_flight == 1)
    assert (await door.post("/v1/models/fake/requests/same/abort", json={"block_duration": 30})).json() == {"msg": "DONE"}
    assert (await second).status_code == 499
    rig.runner.gate.release(1000)
    await until(lambda: rig.async_engine.pending == 0)
