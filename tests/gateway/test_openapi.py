"""Whatever the front door's own OpenAPI document allows, it answers in words: no 5xx, on a real `jitney local`."""

from __future__ import annotations

import json
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from support.local import Local

FEW = settings(
    max_examples=5,
    deadline=None,
    # The same requests each time.
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def test_no_request_that_the_document_allows_is_answered_with_a_5xx(local: Local):
    """But what is absent says so with 501."""
    failed: dict[str, str] = {}
    operations = [found.ok() for found in schemathesis.openapi.from_url(f"{local.url}/openapi.json").get_all_operations()]
    for operation in operations:

        @FEW
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            answer = case.call(timeout=30)
            if answer.status_code >= 500 and answer.status_code != 501:
                failed[case.operation.label] = f"{case.as_curl_command()}: {answer.text}"

        ask()
    assert len(operations) > 40
    # But for what is absent, and a cancellation, which needs none.
    bodies = [operation.label for operation in operations if operation.method == "post" and operation.body]
    assert not failed
    assert len(bodies) == 7, bodies
    assert not local.runtimes()


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
