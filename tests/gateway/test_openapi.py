"""Whatever the front door's own OpenAPI document allows, it answers in words: no 5xx, on a real `jitney local`, without a model and with
one. The front door of a cluster is asked in tests/integration."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jitney_gateway.launch import FIXED, READ
from jitney_gateway.server import wanted
from jitney_gateway.server.absent import ABSENT
from jitney_gateway.server.keys import make
from support.local import Local, running_local
from support.models import save_tiny
from support.openapi import asked, asked_about

UID = "tiny"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """With one model."""
    folder = tmp_path_factory.mktemp("serving")
    weights = save_tiny(folder / "model", vocab_size=49152)
    with running_local(folder / "state") as local:
        body = {"model_engine": "transformers", "model_name": UID, "model_path": str(weights)}
        httpx.post(f"{local.url}/v1/models", json=body, timeout=120).raise_for_status()
        yield local


def test_no_request_that_the_document_allows_is_answered_with_a_5xx(local: Local):
    found = asked(local.url, examples=5)
    assert not found.faults
    assert len(found.answers) > 70
    assert found.absent == {f"{method} {path.replace('{uid:uid}', '{uid}')}" for path, (methods, _) in ABSENT.items() for method in methods}
    assert not {label: told for label, told in found.answers.items() if (label in found.absent) != (set(told) == {501})}
    # But for a cancellation, which needs none.
    assert len(found.bodies) == 7, found.bodies
    assert not local.runtimes()


def test_the_document_has_every_field_of_a_launch():
    told = wanted.LAUNCH["requestBody"]["content"]["application/json"]["schema"]["properties"]
    named = {"model_name", "model_engine", "model_format", "model_size_in_billions", "size_in_billions"}
    assert set(told) == {*named, *FIXED, *READ}


def test_nor_is_one_that_the_keys_refuse(tmp_path: Path):
    """By a wrong key, by one for other models, and by one that has used up its limit."""
    made = {"admin": make("admin"), "team": make("team", ("team-*",), requests=1)}
    file = tmp_path / "keys.yaml"
    file.write_text(json.dumps({"keys": [key.written() for _, key in made.values()]}))
    given = {name: {"Authorization": f"Bearer {secret}"} for name, (secret, _) in made.items()} | {"wrong": {"Authorization": "Bearer x"}}
    with running_local(tmp_path / "state", "--keys-file", str(file)) as local:
        told = {name: asked(local.url, 5, quickly, headers=headers, document_headers=given["admin"]) for name, headers in given.items()}
    assert not {name: found.faults for name, found in told.items() if found.faults}
    answers = {name: sum(found.answers.values(), Counter()) for name, found in told.items()}
    assert set(answers["wrong"]) >= {200, 401}
    assert answers["wrong"][401] > 100
    assert told["team"].answers["DELETE /v1/models/{uid}"][403] == told["admin"].answers["DELETE /v1/models/{uid}"][400] > 0
    assert told["team"].answers["POST /v1/completions"][429] > 0
    assert not answers["admin"][401] + answers["admin"][403] + answers["admin"][429]


def quickly(case: Any) -> None:
    case.query = {**(case.query or {}), "wait_ready": "false", "follow": "false"}


def test_nor_is_one_about_a_model_that_is_served(serving: Local):
    found = asked_about(serving.url, UID)
    assert not found.faults
    assert not found.unanswered("GET /v1/models/{uid}/logs")
    assert httpx.get(f"{serving.url}/v1/models/{UID}").json()["status"] == "READY"


BODIES: list[Any] = [None, 3, "x", [], {}, [[]], {"model": 3}, {"model": "x", "messages": 3}, {"model": "x\ud800"}, {"replica": {}}]


def test_bodies_of_any_form(local: Local):
    """Which the document does not allow."""
    paths = [
        "/v1/models", "/v1/models/fit", "/v1/chat/completions", "/v1/completions", "/v1/models/x/replicas", "/v1/model_registrations/LLM",
        "/v1/models/x/requests/y/abort",
    ]  # fmt: skip
    launch = {"model_engine": "transformers", "model_name": "x"}
    named = [launch | {"model_name": name} for name in ("x", "../x", "a/../b", "\x00", "x" * 5000, "\ud800")]
    named += [launch | {field: value} for field in ("model_path", "revision") for value in ("\x00", "/" * 5000)]
    with httpx.Client(base_url=local.url, timeout=30) as client:
        for path in paths:
            for body in (*BODIES, *named):
                answer = client.post(path, content=json.dumps(body), params={"wait_ready": "false"})
                assert answer.status_code < 500, (path, body, answer.text)
        for raw in (b"", b"\xff\xfe", b"[" * 100_000, b"1e999999", b'{"model": "x", "messages": [' + b"9" * 5000 + b"]}"):
            for path in paths:
                answer = client.post(path, content=raw)
                assert answer.status_code < 500, (path, raw[:50], answer.text)
