"""From a client through the front door to a runtime and back: both real, over real connections, with words that are fake."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from jitney_gateway.catalogue import Catalogue
from jitney_gateway.destination import Destination, of_model
from jitney_gateway.launch import Launch
from jitney_gateway.model import ERROR, LOADING, READY, Model, Replica
from jitney_gateway.server import app
from jitney_gateway.server.peers import Peers
from support.rig import CHAT, COMPLETION, PROMPTS, Rig, until
from support.serving import served

either = pytest.mark.parametrize("route", [CHAT, COMPLETION])
both = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


class Fixed:
    """A Backend whose models are what they are."""

    def __init__(self, *models: Model) -> None:
        self._models = list(models)

    async def launch(self, launch: Launch) -> str:
        raise NotImplementedError

    async def ready(self, uid: str) -> None:
        raise NotImplementedError

    async def terminate(self, uid: str) -> None:
        raise NotImplementedError

    async def models(self) -> list[Model]:
        return self._models

    async def find(self, uid: str) -> Model | None:
        return next((model for model in self._models if model.uid == uid), None)

    def destination(self, uid: str) -> Destination | None:
        return next((of_model(model) for model in self._models if model.uid == uid), None)

    def uids(self) -> list[str]:
        return [model.uid for model in self._models]

    async def wake(self, uid: str) -> None:
        raise NotImplementedError

    async def moved(self) -> None:
        raise NotImplementedError

    def unready(self) -> str:
        return ""


def model(uid: str, status: str, address: str = "http://127.0.0.1:9", message: str = "") -> Model:
    return Model(uid, Launch(uid), status, (Replica("0", address, status),), message=message)


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
    assert (await door.post(aborts["gone"])).json() == {"msg": "NOT_FOUND"}
    assert (await door.post(aborts["fake"], json={"block_duration": 30})).json() == {"msg": "DONE"}
    answer = await asking
    if stream:
        assert answer.status_code == 200
        assert "[DONE]" not in answer.text
    else:
        assert (answer.status_code, answer.json()["error"]["code"]) == (499, "aborted")
    assert (await door.post(aborts["fake"])).json() == {"msg": "NOT_FOUND"}
    await until(lambda: rig.state.in_flight == 0)
    rig.runner.gate.release(1000)
    await until(lambda: rig.async_engine.pending == 0)
    assert (await door.post(route, json=asked | {"max_tokens": 2})).status_code == 200, "the name may be used again"


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
        assert (await client.post(f"{alone}{abort}")).json() == {"msg": "NOT_FOUND"}
        assert (await client.post(f"{second}{abort}", headers={"x-jitney-peer": "1"})).json() == {"msg": "NOT_FOUND"}
        assert (await client.post(f"{second}{abort}")).json() == {"msg": "DONE"}
        assert (await asking).status_code == (200 if stream else 499)
        assert (await client.post(f"{second}{abort}")).json() == {"msg": "NOT_FOUND"}
        rig.runner.gate.release(1000)
        await until(lambda: rig.async_engine.pending == 0)


async def test_a_question_with_the_same_name_is_not_forgotten_with_an_earlier_one(door: httpx.AsyncClient, rig: Rig):
    rig.runner.gate = threading.Semaphore(0)
    asked = []
    for number in (1, 2):
        asked.append(asyncio.create_task(door.post(CHAT, json=body(CHAT, max_tokens=40, request_id="same"))))
        await until(lambda number=number: rig.async_engine.pending == number)
    first, second = asked
    first.cancel()
    await until(lambda: rig.state.in_flight == 1)
    assert (await door.post("/v1/models/fake/requests/same/abort")).json() == {"msg": "DONE"}
    assert (await second).status_code == 499
    rig.runner.gate.release(1000)
    await until(lambda: rig.async_engine.pending == 0)
