"""One Event per transition of a resource, for `kubectl describe` and `kubectl events`. Pure (events.k8s.io/v1, KEP-383)."""

from __future__ import annotations

import hashlib
from datetime import datetime

from jitney_operator.api import API_VERSION, GROUP, KIND, Json, ModelDeployment

CONTROLLER = f"{GROUP}/operator"
# Bytes. The server refuses longer notes.
LONGEST_NOTE = 1024


def transition(mdep: ModelDeployment, status: Json, instance: str, now: datetime) -> Json | None:
    """The Event for what changes between the status that is there and the one to come; None when that is no new state.

    Its name follows from the resource's version, so that the same transition is never told twice, not even by two processes.
    """
    before, after = _ready(mdep.status), _ready(status)
    if _state(before) == _state(after):
        return None
    digest = hashlib.sha256(f"{mdep.uid}/{mdep.version}/{after['reason']}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{mdep.name}.{digest}", "namespace": mdep.key.namespace},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": CONTROLLER,
        "reportingInstance": instance[:128],
        "action": "Report",
        "type": "Warning" if _is_trouble(status, after) else "Normal",
        "reason": after["reason"],
        "note": _note(status, after).encode()[:LONGEST_NOTE].decode(errors="ignore"),
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": mdep.key.namespace,
            "name": mdep.name,
            "uid": mdep.uid,
            "resourceVersion": str(mdep.version),
        },
    }


def _ready(status: Json) -> Json:
    return next((entry for entry in status.get("conditions", []) if entry["type"] == "Ready"), {})


def _state(condition: Json) -> tuple[str | None, str | None]:
    return condition.get("status"), condition.get("reason")


def _is_trouble(status: Json, ready: Json) -> bool:
    """The state comes from a failure, or the spec is not accepted; being on the way is none."""
    refused = any(entry["type"] == "Accepted" and entry["status"] == "False" for entry in status["conditions"])
    return ready["status"] == "False" and (refused or status.get("lastFailure", {}).get("reason") == ready["reason"])


def _note(status: Json, ready: Json) -> str:
    message = str(ready["message"])
    return f"{message} ({status['progress']})" if status.get("progress") else message
