"""Whatever the front door's own OpenAPI document allows, it answers in words: no 5xx, on a real `jitney local`, without a model and with
one. The front door of a cluster is asked in tests/integration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

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
    """But what is absent says so with 501."""
    found = asked(local.url, examples=5)
    assert not found.faults
    assert len(found.answers) > 40
    # But for what is absent, and a cancellation, which needs none.
    assert len(found.bodies) == 7, found.bodies
    assert not local.runtimes()


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
