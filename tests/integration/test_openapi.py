"""As tests/gateway/test_openapi.py, of the front door of a cluster: a real API server, and a real runtime as the one pod."""

from __future__ import annotations

from pathlib import Path

from support.gateway import running_gateway, tell_of
from support.models import save_tiny
from support.namespaces import Namespace
from support.openapi import asked_about
from support.process import running_runtime


def test_no_request_about_a_model_that_is_served_is_answered_with_a_5xx(namespace: Namespace, tmp_path: Path):
    weights = save_tiny(tmp_path / "model", vocab_size=49152)
    (tmp_path / "runtime").mkdir()
    words = ("--model", str(weights), "--served-model-name", "chat", "--host", "0.0.0.0")
    with running_runtime(tmp_path / "runtime", *words) as runtime, running_gateway(namespace, tmp_path) as gateway:
        runtime.wait_ready()
        namespace.create(model="org/tiny")
        tell_of(namespace, int(runtime.url.rpartition(":")[2]))
        gateway.until(lambda: gateway.ask().status_code == 200)
        found = asked_about(gateway.url, "chat")
    assert not found.faults
    assert not found.unanswered()
