"""Bodies that cost more than they look, at a front door and the runtime behind it: refused, and nobody else notices."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import cast

import httpx
import pytest

from jitney_gateway.backend import Backend
from jitney_gateway.catalogue import Catalogue
from jitney_gateway.destination import Destination, of_model
from jitney_gateway.errors import GatewayError
from jitney_gateway.launch import Launch
from jitney_gateway.model import READY, Model, Replica
from jitney_gateway.server import app
from jitney_gateway.server.body import parsed
from jitney_gateway.server.cost import DEEPEST, MOST_PLACES, MOST_TEXTS, MOST_VALUES, refusal
from jitney_runtime.server import reading
from support.rig import CHAT, COMPLETION, HI, Rig
from support.serving import served

either = pytest.mark.parametrize("route", [CHAT, COMPLETION])
SIGNS = '[]{},:"\\'


class One:
    """As much of a Backend as a chat needs: one model, which is there."""

    def __init__(self, address: str) -> None:
        self._model = Model("fake", Launch("fake"), READY, (Replica("0", address, READY),))

    def destination(self, uid: str) -> Destination | None:
        return of_model(self._model) if uid == self._model.uid else None

    def uids(self) -> list[str]:
        return [self._model.uid]

    def unready(self) -> str:
        return ""


@pytest.fixture
async def door(rig: Rig) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the front door, behind which `fake` is the rig."""
    async with (
        served(rig.app) as runtime,
        served(app.make(cast(Backend, One(runtime)), Catalogue.read())) as url,
        httpx.AsyncClient(base_url=url, timeout=60) as client,
    ):
        yield client


def filled(unit: bytes, count: int) -> bytes:
    return b"[" + b",".join([unit] * count) + b"]"


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (filled(b"[]", MOST_PLACES), "lists, objects and names"),
        (filled(b'{"a":0}', MOST_PLACES // 2), "lists, objects and names"),
        (filled(b"7", MOST_VALUES + 1), "or 1100000 values"),
        (filled(b'"a"', MOST_TEXTS + 1), "300000 texts"),
        (filled(b'"a,,,,b"', MOST_TEXTS + 1), "300000 texts"),
        (b'"' * 8_000_000 + b"[" * MOST_PLACES + b"[", "lists, objects and names"),
        (b"[" * 8_000_000, "lists, objects and names"),
        (b'["\\\\",' + filled(b"[]", MOST_PLACES) + b"]", "lists, objects and names"),
        (b'["\\\\\\"",' + filled(b"[]", MOST_PLACES) + b"]", "lists, objects and names"),
        (nested(DEEPEST + 1), "more than 200 deep"),
        (b'{"a":' * (DEEPEST + 1), "more than 200 deep"),
        ("[1]".encode("utf-16"), "must be UTF-8"),
        (b"[1", "is no JSON"),
        (b'["\xff"]', "is no JSON"),
    ],
    ids=[
        "lists",
        "names",
        "numbers",
        "texts",
        "texts with signs",
        "quotes",
        "open lists",
        "a backslash",
        "a quote",
        "deep",
        "deep objects",
        "UTF-16",
        "cut",
        "no UTF-8",
    ],
)
def test_what_is_not_read(body: bytes, words: str):
    with pytest.raises(GatewayError, match=words) as refused:
        parsed(body)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        filled(b"[]", MOST_PLACES - 1),
        filled(b"1234567", MOST_VALUES),
        filled(b'"a,,,,b["', MOST_TEXTS),
        nested(DEEPEST),
        json.dumps({"content": SIGNS * 100_000, SIGNS * 10_000: ["[" * 200_000]}).encode(),
        json.dumps({"content": "\\" * 400_001 + '"[' * 200_000}).encode(),
        json.dumps({"content": "日,本[" * 100_000}, ensure_ascii=False).encode(),
    ],
    ids=["lists", "numbers", "texts", "deep", "signs in texts", "backslashes", "UTF-8"],
)
def test_what_is_read_as_json_has_it(body: bytes):
    assert refusal(body) == ""
    assert parsed(body) == json.loads(body)


def test_the_front_door_takes_no_more_than_the_runtime():
    assert (MOST_PLACES, MOST_TEXTS, MOST_VALUES) == (reading.MOST_PLACES, reading.MOST_TEXTS, reading.MOST_VALUES)


@either
async def test_a_hostile_body_is_400_at_the_door_and_the_next_one_is_answered(door: httpx.AsyncClient, rig: Rig, route: str):
    for inner in (filled(b"[]", 2_000_000), filled(b"1.5", 2_000_000), nested(900), nested(975)):
        answer = await door.post(
            route, content=b'{"model": "fake", "prompt": "hi", "x": ' + inner + b"}", headers={"content-type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
    assert not rig.runner.batches
    asked = {"model": "fake", "max_tokens": 2} | ({"messages": HI} if route == CHAT else {"prompt": list(range(1, 20))})
    assert (await door.post(route, json=asked)).status_code == 200


@pytest.mark.parametrize("fields", [{"enable_thinking": False}, {"chat_template_kwargs": {"enable_thinking": False, "x": [1]}}])
async def test_what_a_chat_template_is_given_passes(door: httpx.AsyncClient, rig: Rig, fields: dict[str, object]):
    given: list[dict[str, object]] = []
    render = rig.tokenizer.apply_chat_template

    def seen(conversation: list[dict[str, str]], **options: object) -> dict[str, list[int]]:
        given.append(options)
        return render(conversation, **options)

    rig.tokenizer.apply_chat_template = seen  # type: ignore[method-assign]
    assert (await door.post(CHAT, json={"model": "fake", "messages": HI, "max_tokens": 1, **fields})).status_code == 200
    assert given[0]["enable_thinking"] is False
    refused = await door.post(COMPLETION, json={"model": "fake", "prompt": "x", **fields})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, next(iter(fields)))
