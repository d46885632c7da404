"""One Event per transition of a resource, for `kubectl describe` and `kubectl events`. Pure (events.k8s.io/v1, KEP-383)."""

from __future__ import annotations

import hashlib
from datetime import datetime

from jitney_operator.api import API_VERSION, GROUP, KIND, Json, ModelDeployment

CONTROLLER = f"{GROUP}/operator"
# Each is told where none before it has moved. Ready takes over what Accepted, Scheduled and ModelLoaded say.
TELLING = ("Ready", "Stalled", "Progressing", "Available")
# Bytes. The server refuses longer notes.
LONGEST_NOTE = 1024


def transition(mdep: ModelDeployment, status: Json, instance: str, now: datetime) -> Json | None:
    """The Event for what changes between the status that is there and the one to come; None when that is no new state.

    Its name follows from the resource's version, so that the same transition is never told twice, not even by two processes.
    """
    told = _told(mdep.status, status)
    if told is None:
        return None
    digest = hashlib.sha256(f"{mdep.uid}/{mdep.version}/{told['reason']}".encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{mdep.name}.{digest}", "namespace": mdep.key.namespace},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": CONTROLLER,
        "reportingInstance": instance[:128],
        "action": "Report",
        "type": "Warning" if _is_trouble(status, told) else "Normal",
        "reason": told["reason"],
        "note": _note(status, told).encode()[:LONGEST_NOTE].decode(errors="ignore"),
        "regarding": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": mdep.key.namespace,
            "name": mdep.name,
            "uid": mdep.uid,
            "resourceVersion": str(mdep.version),
        },
    }


def _told(before: Json, after: Json) -> Json | None:
    """The condition that says what is new."""
    were, are = _conditions(before), _conditions(after)
    return next((are[kind] for kind in TELLING if kind in are and _is_news(were.get(kind, {}), are[kind])), None)


def _conditions(status: Json) -> dict[str, Json]:
    return {entry["type"]: entry for entry in status.get("conditions", ())}


def _is_news(before: Json, after: Json) -> bool:
    if after["type"] == "Available":
        # That nobody is wanted is told by Ready when the last pod is gone, a moment later.
        return before.get("status") != after["status"] and after["reason"] in ("Serving", "NoReadyReplica")
    return (before.get("status"), before.get("reason")) != (after["status"], after["reason"])


def _is_trouble(status: Json, told: Json) -> bool:
    """The state comes from a failure, or the spec is not accepted; being on the way is none, also where nobody answers meanwhile."""
    if told["type"] == "Stalled" or told["reason"] in ("DeadlineExceeded", "AutoscalerUnknown"):
        return True
    found = _conditions(status)
    fails = found["Accepted"]["status"] == "False" or status.get("lastFailure", {}).get("reason") == found["Ready"]["reason"]
    return fails and told["status"] == "False" and told["reason"] in (found["Ready"]["reason"], "NoReadyReplica")


def _note(status: Json, told: Json) -> str:
    message = str(told["message"])
    return f"{message} ({status['progress']})" if told["type"] == "Ready" and status.get("progress") else message
