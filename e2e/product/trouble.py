"""A pod in trouble as Kubernetes knows it, and the resource that must name it soon after."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cluster.kubectl import Kubectl, wait_for
from product import resource
from product.resource import condition

POD = "serving.jitney.dev/model-deployment"
# Generous: the suite shares two cores with everything else. The seconds are printed.
REPORT_SECONDS = 30
Pod = dict[str, Any]


def known(kubectl: Kubectl, namespace: str, name: str, holds: Callable[[Pod], bool]) -> float:
    """The earliest moment at which Kubernetes may have known that a pod is in this trouble."""

    def seen() -> bool:
        return any(holds(pod) for pod in kubectl.list("pods", namespace, "-l", f"{POD}={name}"))

    return since(seen, f"trouble on the pod of {name}")


def since(seen: Callable[[], bool], what: str) -> float:
    """The last look that did not show it yet."""
    asked = [time.time()]

    def look() -> bool:
        asked.append(time.time())
        return seen()

    wait_for(look, 120, what)
    return asked[-2]


def reported(kubectl: Kubectl, namespace: str, name: str, kind: str, reasons: set[str], known: float) -> dict[str, Any]:
    """The resource once the condition and the one word say it; prints the seconds since Kubernetes knew."""

    def says(seen: dict[str, Any]) -> bool:
        found = condition(seen, kind) or {}
        return found.get("status") == "False" and found.get("reason") in reasons and seen["status"].get("reason") in reasons

    seen = resource.wait_until(kubectl, name, f"{kind}=False with {reasons}", says, REPORT_SECONDS, namespace)
    print(f"\n{name}: {condition(seen, kind)['reason']} on the resource at most {time.time() - known:.1f} s after Kubernetes knew")
    assert (condition(seen, "Ready") or {})["status"] == "False"
    return seen


def _status(pod: Pod) -> dict[str, Any]:
    return next(iter(pod["status"].get("containerStatuses") or []), {})


def waiting(pod: Pod) -> str | None:
    return _status(pod).get("state", {}).get("waiting", {}).get("reason")


def terminated(pod: Pod) -> dict[str, Any] | None:
    status = _status(pod)
    return status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")


def unschedulable(pod: Pod) -> bool:
    conditions = pod["status"].get("conditions") or []
    return any(entry["type"] == "PodScheduled" and entry["status"] == "False" for entry in conditions)
