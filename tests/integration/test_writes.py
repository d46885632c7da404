"""How often the operator writes, counted by the API server's audit log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cluster import ports
from cluster.control_plane import ControlPlane
from support.namespaces import Namespace

OPERATOR = Path(__file__).parents[2] / "operator"
SECONDS = 20


class Operator:
    """One process, for the length of a with block."""

    def __init__(self, plane: ControlPlane, namespace: str, log: Path) -> None:
        # A lease of its own: an operator of another test may still hold the usual one.
        self.environment = {
            "PYTHONPATH": str(OPERATOR),
            "KUBECONFIG": str(plane.kubeconfig),
            "JITNEY_HTTP_PORT": str(ports.free(1)[0]),
            "JITNEY_NAMESPACE": namespace,
            "JITNEY_WATCH_NAMESPACES": namespace,
        }
        self.log = log

    def __enter__(self) -> Operator:
        with self.log.open("a") as file:
            command = [sys.executable, "-m", "jitney_operator"]
            self.process = subprocess.Popen(command, env=os.environ | self.environment, stdout=file, stderr=file)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        assert self.process.wait(20) == 0, self.log.read_text()

    def until(self, look: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not look():
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.2)


def writes(plane: ControlPlane, namespace: str) -> list[str]:
    """Verb and path of what the operator wrote there; its lease does not count."""
    events = [json.loads(line) for line in plane.audit_log.read_text().splitlines()]
    return [
        f"{event['verb']} {event['requestURI']}"
        for event in events
        if event.get("userAgent") == "jitney-operator"
        and event["verb"] in ("create", "update", "patch", "delete")
        and event.get("objectRef", {}).get("namespace") == namespace
        and event["objectRef"].get("resource") != "leases"
    ]


def test_few_writes_to_ready_and_none_after_a_restart(plane: ControlPlane, namespace: Namespace, tmp_path: Path):
    with Operator(plane, namespace.name, tmp_path / "log") as operator:
        namespace.create(model="smollm2-instruct", size="0.135")
        operator.until(lambda: bool(namespace.kubectl("get", "deployments", "-o", "name")))
        status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}
        namespace.kubectl("patch", "deployment", "chat", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
        operator.until(lambda: namespace.get()["status"]["reason"] == "Ready")
    before, made = namespace.get()["metadata"]["resourceVersion"], writes(plane, namespace.name)
    assert 3 <= len(made) <= 8, made
    with Operator(plane, namespace.name, tmp_path / "log"):
        time.sleep(5)
    assert namespace.get()["metadata"]["resourceVersion"] == before
    assert writes(plane, namespace.name) == made
