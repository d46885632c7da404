"""What reading a body may cost: a short text can be a million objects, which nobody else is to wait for."""

from __future__ import annotations

import json
import socket
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from jitney_runtime.errors import InvalidRequest
from jitney_runtime.server.chat import ChatRequest
from jitney_runtime.server.reading import MOST_BYTES, MOST_PLACES, MOST_TEXTS, MOST_VALUES, is_costly, parsed
from support.rig import CHAT, COMPLETION, Rig, until
from support.serving import served

SIGNS = '[]{},:"\\'


def filled(unit: bytes, count: int) -> bytes:
    return b"[" + b",".join([unit] * count) + b"]"


@pytest.mark.parametrize(
    ("unit", "most"),
    [
        (b"[]", MOST_PLACES - 1),
        (b"{}", MOST_PLACES - 1),
        (b'{"a":0}', MOST_PLACES // 2 - 1),
        (b"7", MOST_VALUES),
        (b'"a"', MOST_TEXTS),
        (b'"a,,,,b"', MOST_TEXTS),
        (b'"\\"a"', MOST_TEXTS),
    ],
    ids=["lists", "objects", "names", "numbers", "texts", "texts with signs", "texts with quotes"],
)
def test_so_many_and_no_more(unit: bytes, most: int):
    assert len(parsed(filled(unit, most))) == most
    assert is_costly(filled(unit, most + 1))
    with pytest.raises(InvalidRequest, match="send a smaller one"):
        parsed(filled(unit, 2 * most))


@pytest.mark.parametrize(
    "text", [SIGNS * 60_000, "\\" * 400_000, '"' * 2 * MOST_TEXTS, '\\"' * 300_000 + "[" * 200_000, "日,本" * MOST_VALUES]
)
@pytest.mark.parametrize("ascii_only", [True, False], ids=["ascii", "utf-8"])
def test_signs_inside_of_a_text_are_none(text: str, ascii_only: bool):
    body = json.dumps({"content": text, text: [text]}, ensure_ascii=ascii_only).encode()
    assert parsed(body) == {"content": text, text: [text]}


@pytest.mark.parametrize("before", ['"\\\\"', '"\\\\\\""', '"\\\\\\\\"', '"\\u005c"', '""'])
def test_the_end_of_a_text_is_where_json_has_it(before: str):
    """Otherwise what follows would be taken for text."""
    json.loads(before)
    assert is_costly(f"[{before},".encode() + filled(b"[]", MOST_PLACES) + b"]")


@pytest.mark.parametrize(
    "body",
    [
        b'"' * 8_000_000 + b"[" * 50_001,
        filled(b'""', 2_000_000),
        filled(b"1.5", 2_000_000),
        b"[" * 8_000_000,
        b'{"a":' * 1_000_000,
        filled(b"[]", 50_010)[:-9],
    ],
    ids=["quotes", "texts", "numbers", "deep", "deep objects", "cut off"],
)
def test_what_is_costly_is_told_before_it_is_read(body: bytes):
    with pytest.raises(InvalidRequest, match="send a smaller one"):
        parsed(body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[" * 5000 + b"]" * 5000, "nested too deeply"),
        ("[1]".encode("utf-16"), "it must be UTF-8"),
        (b'["\xff"]', "no valid JSON"),
        (b"[" + b"9" * 5000 + b"]", "no valid JSON"),
        (b"[1] x", "at character 4"),
    ],
    ids=["deep", "UTF-16", "no UTF-8", "a long number", "more than one"],
)
def test_what_is_no_json_for_us(body: bytes, said: str):
    with pytest.raises(InvalidRequest, match=said):
        parsed(body)


@pytest.mark.parametrize("route", [CHAT, COMPLETION])
async def test_a_costly_body_is_400_and_too_long_a_one_413(rig: Rig, route: str):
    answer = await rig.post(b'{"model": "fake", "x": ' + filled(b"[]", 1_000_000) + b"}", route=route)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "send a smaller one" in answer.json()["error"]["message"]
    answer = await rig.post(b" " * (MOST_BYTES + 1), route=route)
    assert (answer.status_code, answer.json()["error"]["message"]) == (413, "the body is longer than 32 MiB")


async def test_the_token_ids_of_a_window_of_a_million_tokens_are_read(rig: Rig):
    answer = await rig.complete(prompt=[7] * 2**20)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "the prompt has 1048576 tokens" in answer.json()["error"]["message"]


async def test_of_many_turns_that_are_none_the_first_is_told(rig: Rig):
    for messages in ([1] * 1000, [{"role": "user", "content": [1] * 1000}]):
        with pytest.raises(ValidationError) as found:
            ChatRequest.model_validate({"model": "fake", "messages": messages})
        assert found.value.error_count() == 1
    answer = await rig.chat(messages=[1] * 1000)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[0]")


@pytest.mark.parametrize("route", [CHAT, COMPLETION])
async def test_a_client_that_hangs_up_in_the_middle_of_its_body_is_no_defect(rig: Rig, route: str, capsys: pytest.CaptureFixture[str]):
    head = f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
    async with served(rig.app) as url:
        place = urlsplit(url)
        with socket.create_connection((place.hostname, place.port)) as client:
            client.sendall(head.encode() + b'{"model": "fake", ')
            await until(lambda: rig.state.in_flight == 1)
        await until(lambda: rig.state.in_flight == 0)
        assert (await rig.ask(route, max_tokens=1)).status_code == 200
    # uvicorn's log.
    assert capsys.readouterr().err == ""


async def test_a_long_body_is_checked_as_a_short_one_is(rig: Rig):
    """On a thread, which changes neither the answer nor the place that is named."""
    turns = [{"role": "user", "content": "x"}] * 5000
    answer = await rig.chat(messages=[*turns, {"role": "robot", "content": "x"}])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[5000].role")
    assert (await rig.chat(messages=turns)).json()["error"]["code"] == "context_length_exceeded"


async def test_the_bodies_are_described(rig: Rig):
    document = (await rig.client.get("/openapi.json")).json()
    for route, field in ((CHAT, "messages"), (COMPLETION, "prompt")):
        schema = document["paths"][route]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert field in schema["required"]
        assert found_refs(schema)
        for reference in found_refs(schema):
            place = document
            for part in reference.removeprefix("#/").split("/"):
                place = place[part.replace("~1", "/")]
            assert place["type"] == "object"


def found_refs(schema: object) -> list[str]:
    if isinstance(schema, list):
        return [reference for part in schema for reference in found_refs(part)]
    if not isinstance(schema, dict):
        return []
    return [schema["$ref"]] if "$ref" in schema else [reference for part in schema.values() for reference in found_refs(part)]
