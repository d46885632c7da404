"""Keys, limits and the counting of tokens, without a server."""

from __future__ import annotations

import asyncio
import hmac
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jitney_gateway.launch import Launch
from jitney_gateway.server import harm, keyring
from jitney_gateway.server.guard import is_foreign, is_local_name
from jitney_gateway.server.keys import Key, Keys, KeysError, digest, make
from jitney_gateway.server.limits import Limits
from jitney_gateway.server.meter import Meter, asked_usage

HASH = "a" * 64


def document(*entries: object) -> str:
    return json.dumps({"keys": list(entries)})


# Keys


def test_a_key_that_was_made_is_found_by_itself_only():
    secret, key = make("team-a", ("smol*",), 60, 1000)
    other, _ = make("team-a")
    keys = Keys.read(document({"id": "first", "hash": HASH}, key.written()))
    assert keys.find(secret) == key
    assert (keys.find(other), keys.find(""), keys.find(key.hash), keys.find("\udcff")) == (None, None, None, None)
    assert secret not in json.dumps(key.written())
    assert len(secret) > 40


@pytest.mark.parametrize("wanted", [0, 1, 2, None], ids=["first", "second", "last", "none"])
def test_every_entry_is_compared_whichever_it_is(monkeypatch: pytest.MonkeyPatch, wanted: int | None):
    made = [make(name) for name in ("a", "b", "c")]
    keys = Keys.read(document(*(key.written() for _, key in made)))
    compared: list[str] = []
    alike = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda given, kept: compared.append(kept) or alike(given, kept))
    found = keys.find("jk-wrong" if wanted is None else made[wanted][0])
    assert found == (None if wanted is None else made[wanted][1])
    assert compared == [key.hash for _, key in made]


def test_a_hash_that_another_program_made():
    """`printf %s KEY | sha256sum`"""
    found = subprocess.run("printf %s sesame | sha256sum", shell=True, capture_output=True, text=True, check=True).stdout.split()[0]
    assert Keys.read(document({"id": "x", "hash": found.upper()})).find("sesame") == Key("x", digest("sesame"))


def test_what_a_key_for_some_models_may_not_launch():
    some, full = (Keys.read(document({"id": "x", "hash": HASH, "models": ["m"]} | more)).entries[0] for more in ({}, {"launch": "full"}))
    assert [key.may_run_code for key in (some, full, Key("x", HASH))] == [False, True, True]
    assert full.written()["launch"] == "full"
    said = {
        "": Launch("smollm2-instruct"),
        "envs": Launch("m", envs={"LD_PRELOAD": "x"}),
        "trust_remote_code": Launch("org/m", trust_remote_code=True),
    }
    for field, launch in said.items():
        assert harm.of_launch(launch, ()) == field
    for path in ("/tmp/m", "file:///tmp/m", "pvc://claim/m", "oci://image", "hf://../m", "hf://m", "m"):
        assert harm.of_launch(Launch("m", model_path=path), ()) == "model_path"
        assert harm.of_launch(Launch("m", model_path=path), (path,)) == ""
    assert harm.of_launch(Launch("m", model_path="hf://org/m.2"), ()) == ""
    for name in ("/tmp/m", "../m", "./m", "a/../m", "pvc://claim/m", "a/b/m", "~/m"):
        assert harm.of_launch(Launch(name), ()) == "model_name", name


def test_which_models_a_key_is_for():
    some = Key("x", HASH, ("smol*", "team-b/*", "one"))
    assert [some.may_use(name) for name in ("smollm2", "one", "team-b/two", "ones", "b/team-b/two", "SMOL")] == [True] * 3 + [False] * 3
    assert [Key("x", HASH, ("*",)).may_use(name) for name in ("one", "team-b/two")] == [True, False], "no star stands for a slash"
    assert [Key("x", HASH, ("*/*",)).may_use(name) for name in ("one", "team-b/two")] == [False, True]
    assert Key("x", HASH).may_use("anything")
    assert not Key("x", HASH, ()).may_use("anything")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the one field `keys`"),
        ("keys: [", "no YAML"),
        ("keys: 2001-99-99", "no YAML"),
        ("[" * 5000, "no YAML"),
        ("keys: 3", "keys: must be a list"),
        ("keys: []\nmore: 1", "the one field `keys`"),
        (document("x"), r"keys\[0\]: must be a mapping"),
        (document({"id": "x", "hash": HASH}, {"id": "x", "hash": "b" * 64}), r"keys\[1\].id: another entry"),
        (document({"id": "x", "hash": HASH}, {"id": "y", "hash": HASH}), r"keys\[1\].hash: another entry"),
        (document({"id": "x", "hash": HASH, "modles": []}), r"keys\[0\].modles: is no field"),
        (document({"id": "x y", "hash": HASH}), r"keys\[0\].id: must be"),
        (document({"hash": HASH}), r"keys\[0\].id: must be"),
        (document({"id": "x", "hash": "jk-secret"}), r"keys\[0\].hash: must be the SHA-256"),
        (document({"id": "x", "hash": HASH, "models": "all"}), r"keys\[0\].models: must be a list"),
        (document({"id": "x", "hash": HASH, "models": None}), r"keys\[0\].models: must be a list"),
        (document({"id": "x", "hash": HASH, "launch": "some"}), r"keys\[0\].launch: must be full"),
        (document({"id": "x", "hash": HASH, "requestsPerMinute": 0}), r"keys\[0\].requestsPerMinute: must be a whole number"),
        (document({"id": "x", "hash": HASH, "tokensPerMinute": True}), r"keys\[0\].tokensPerMinute: must be a whole number"),
        (document({"id": "x", "hash": HASH, "tokensPerMinute": None}), r"keys\[0\].tokensPerMinute: must be a whole number"),
    ],
)
def test_a_document_that_is_not_understood_is_refused_whole(text: str, said: str):
    with pytest.raises(KeysError, match=said) as error:
        Keys.read(text)
    assert "secret" not in str(error.value)


def test_no_entry_lets_nobody_in():
    for text in ("keys: []", "keys:"):
        assert Keys.read(text).find("x") is None


async def test_whatever_happens_the_file_of_keys_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "keys.yaml"
    file.write_text(document({"id": "x", "hash": HASH}))
    ring = keyring.Keyring(file)
    monkeypatch.setattr(keyring, "PERIOD", 0.01)
    following = asyncio.create_task(ring.keep())
    with monkeypatch.context() as patch:
        patch.setattr(Keys, "read", lambda text: 1 / 0)
        file.write_text(document())
        async with asyncio.timeout(60):
            while not ring.failures:
                await asyncio.sleep(0.01)
    assert (ring.current, len(ring.keys.entries)) == (False, 1)
    file.write_text("keys: []\n")
    async with asyncio.timeout(60):
        while not ring.current:
            await asyncio.sleep(0.01)
    assert ring.keys.entries == ()
    following.cancel()


# Limits


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_requests_at_once_and_then_at_their_rate():
    clock = Clock()
    limits, key = Limits(clock), Key("x", HASH, requests=6)
    assert [limits.take(key) for _ in range(6)] == [None] * 6
    refused = limits.take(key)
    assert refused
    assert (refused.limit, refused.seconds) == ("6 requests per minute", 10)
    clock.now = 9.9
    assert limits.take(key)
    clock.now = 10.0
    assert limits.take(key) is None
    assert limits.take(replace(key, id="other")) is None, "each key has its own"
    clock.now = 1e6
    assert [bool(limits.take(key)) for _ in range(7)] == [False] * 6 + [True], "more than a minute's worth is never saved"


def test_tokens_are_a_debt_that_is_paid_before_the_next_request():
    clock = Clock()
    limits, key = Limits(clock), Key("x", HASH, tokens=600)
    assert limits.take(key) is None
    limits.spend(key, 700)
    refused = limits.take(key)
    assert refused
    assert (refused.limit, refused.seconds) == ("600 tokens per minute", 11)
    clock.now = 10.2
    assert limits.take(key) is None


def test_a_refusal_for_tokens_costs_no_request():
    clock = Clock()
    limits, key = Limits(clock), Key("x", HASH, requests=1, tokens=60)
    limits.spend(key, 61)
    assert [limits.take(key).limit for _ in range(3)] == ["60 tokens per minute"] * 3
    clock.now = 3.0
    assert limits.take(key) is None


def test_a_limit_that_is_changed_counts_at_once():
    limits, key = Limits(Clock()), Key("x", HASH, requests=1)
    assert [bool(limits.take(key)) for _ in range(2)] == [False, True]
    assert [bool(limits.take(replace(key, requests=3))) for _ in range(3)] == [False, False, True]
    assert limits.take(replace(key, requests=None)) is None


def test_front_doors_share_a_limit():
    """Between them they give it once, however it is divided."""
    clock = Clock()
    doors, key = [Limits(clock), Limits(clock)], Key("x", HASH, requests=5, tokens=600)
    for limits in doors:
        limits.doors = 2
    assert [sum(limits.take(key) is None for _ in range(9)) for limits in doors] == [2, 2]
    refused = doors[0].take(key)
    assert refused
    assert (refused.limit, refused.seconds) == ("share of 5 requests per minute, which is 2.5,", 12)
    clock.now = 60.0
    assert [sum(limits.take(key) is None for _ in range(9)) for limits in doors] == [2, 2]
    clock.now = 72.0
    doors[0].spend(key, 301)
    told = doors[0].take(key)
    assert told
    assert told.limit == "share of 600 tokens per minute, which is 300,"
    assert doors[1].take(key) is None


def test_a_share_is_never_nothing():
    limits, key = Limits(Clock()), Key("x", HASH, requests=1)
    limits.doors = 3
    assert [bool(limits.take(key)) for _ in range(2)] == [False, True]


def test_a_front_door_that_joins_others_does_not_give_a_minute_again():
    """It gives at the key's rate from the first; who has not asked it yet may ask once."""
    clock = Clock()
    clock.now = 1000.0
    limits, key = Limits(clock, shared=True), Key("x", HASH, requests=12, tokens=1200)
    limits.doors = 2
    assert [bool(limits.take(key)) for _ in range(2)] == [False, True]
    clock.now = 1010.0
    assert [bool(limits.take(key)) for _ in range(2)] == [False, True]
    limits.spend(key, 1)
    clock.now = 1030.0
    assert [bool(limits.take(replace(key, id="half"))) for _ in range(4)] == [False] * 3 + [True]
    clock.now = 1060.0
    assert [bool(limits.take(replace(key, id="later"))) for _ in range(7)] == [False] * 6 + [True]
    lone = Limits(clock)
    assert [bool(lone.take(key)) for _ in range(13)] == [False] * 12 + [True]


def test_what_was_used_stays_used_when_front_doors_come_and_go():
    limits, key = Limits(Clock()), Key("x", HASH, requests=10)
    assert [limits.take(key) for _ in range(4)] == [None] * 4
    limits.doors = 2
    assert [bool(limits.take(key)) for _ in range(2)] == [False, True]
    limits.doors = 1
    assert [bool(limits.take(key)) for _ in range(6)] == [False] * 5 + [True]


# Tokens


def event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


TRICKY = 'x","usage":null} data: {"usage":{"prompt_tokens":99}}'
USAGE = {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13, "prompt_tokens_details": {"cached_tokens": 0}}
WANTED = [
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
    {"choices": [{"delta": {"content": TRICKY}}]},
    {"choices": [{"delta": {"content": ""}, "finish_reason": "stop"}]},
]
PLAIN = b"".join(map(event, WANTED)) + b"data: [DONE]\n\n"
TOLD = b"".join(event(body | {"usage": None}) for body in WANTED) + event({"choices": [], "usage": USAGE}) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("size", [1, 2, 7, 100, 10_000])
def test_what_was_asked_for_our_own_count_is_not_seen(size: int):
    """However the pieces come."""
    meter = Meter(streamed=True, hide=True, characters=40)
    seen = b"".join(meter.feed(TOLD[place : place + size]) for place in range(0, len(TOLD), size)) + meter.rest()
    assert seen == PLAIN
    assert meter.usage() == (8, 5)


def test_a_stream_whose_client_asked_itself_passes_as_it_is():
    meter = Meter(streamed=True, hide=False, characters=40)
    assert b"".join(meter.feed(TOLD[place : place + 3]) for place in range(0, len(TOLD), 3)) == TOLD
    assert meter.usage() == (8, 5)


def test_an_answer_that_was_cut():
    meter = Meter(streamed=True, hide=True, characters=41)
    whole = event(WANTED[0] | {"usage": None})
    assert meter.feed(whole) == event(WANTED[0])
    assert not meter.spoken
    assert meter.feed(event(WANTED[1])) == event(WANTED[1])
    assert meter.spoken
    assert meter.feed(b'data: {"cho') == b""
    assert meter.rest() == b'data: {"cho'
    assert meter.usage() == (11, 2)


def test_a_whole_answer():
    body = json.dumps({"choices": [{"message": {"content": TRICKY * 100}}], "usage": USAGE}, indent=1).encode()
    meter = Meter(streamed=False, hide=False, characters=40)
    assert b"".join(meter.feed(body[place : place + 50]) for place in range(0, len(body), 50)) == body
    assert meter.usage() == (8, 5)
    for odd in (b"", b"{}", b'"usage"', b'{"usage":', b'{"usage": null, "x": {}}', b'{"usage": {"prompt_tokens": -1}}', b"\xff" * 9):
        meter = Meter(streamed=False, hide=False, characters=40)
        meter.feed(odd)
        assert meter.usage() == (10, 0)


def test_an_event_that_never_ends_is_not_kept():
    meter = Meter(streamed=True, hide=True, characters=0)
    assert sum(len(meter.feed(b"x" * 100_000)) for _ in range(30)) > 1_000_000
    meter, long = Meter(streamed=True, hide=True, characters=0), event({"choices": [{"text": '"usage"' * 200_000}], "usage": None})
    pieces = [long[place : place + 100_000] for place in range(0, len(long), 100_000)]
    assert b"".join(map(meter.feed, pieces)).startswith(long[:1_000_000]), "one that speaks of usage is not lost"


@pytest.mark.parametrize(
    ("body", "asked"),
    [
        ({"stream": True}, {"include_usage": True}),
        ({"stream": True, "stream_options": None}, {"include_usage": True}),
        ({"stream": True, "stream_options": {"x": 1}}, {"x": 1, "include_usage": True}),
        ({"stream": True, "stream_options": {"include_usage": True}}, None),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, None),
        ({"stream": True, "stream_options": 3}, None),
        ({"stream": "true"}, None),
        ({}, None),
    ],
)
def test_usage_is_asked_for_where_the_client_does_not(body: dict[str, Any], asked: dict[str, Any] | None):
    found = asked_usage(body)
    assert (found and found["stream_options"]) == asked


# Where a request comes from


@pytest.mark.parametrize(
    ("origin", "host", "foreign"),
    [
        (None, "here:1", False),
        ("http://here:1", "here:1", False),
        ("HTTP://Here:1", "here:1", False),
        ("http://here", "here:80", False),
        ("https://here", "here", False),
        ("https://here:443", "here", False),
        ("http://here:1", "here:2", True),
        ("http://here", "here:443", True),
        ("http://there:1", "here:1", True),
        ("http://here:1", None, True),
        ("null", "here:1", True),
        ("", "here:1", True),
        ("file://", "here:1", True),
        ("http://here:x", "here:1", True),
        ("http://[", "here:1", True),
    ],
)
def test_a_page_of_another_origin(origin: str | None, host: str | None, foreign: bool):
    assert is_foreign(origin, host) is foreign


@pytest.mark.parametrize(
    ("host", "local"),
    [
        (None, True),
        ("localhost", True),
        ("LOCALHOST:9997", True),
        ("x.localhost:1", True),
        ("127.0.0.1:9997", True),
        ("127.9.9.9", True),
        ("[::1]:9997", True),
        ("10.0.0.1", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("[", False),
        ("", False),
    ],
)
def test_a_name_that_can_only_be_this_machine(host: str | None, local: bool):
    assert is_local_name(host) is local
