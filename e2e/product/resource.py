"""A ModelDeployment as a person sees it: its conditions, its one-word reason, and its way to Ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cluster.kubectl import Kubectl

POLL_SECONDS = 0.3


@dataclass(frozen=True)
class State:
    """What changes on the way, compared as a whole."""

    reason: str
    message: str
    ready: str
    progress: str
    is_ready: bool
    stalled: bool

    @classmethod
    def of(cls, resource: dict[str, Any]) -> State:
        status = resource.get("status") or {}
        ready = condition(resource, "Ready") or {}
        current = status.get("observedGeneration") == resource["metadata"]["generation"]
        return cls(
            reason=status.get("reason") or ready.get("reason") or "Pending",
            message=ready.get("message") or "",
            ready=status.get("ready") or "",
            progress=status.get("progress") or "",
            is_ready=current and ready.get("status") == "True",
            stalled=(condition(resource, "Stalled") or {}).get("status") == "True",
        )

    def __str__(self) -> str:
        details = " - ".join(part for part in (self.progress, self.message) if part)
        return f"{self.reason:<18} {self.ready:<5} {details}".rstrip()


def condition(resource: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """One condition of the status; None when it is not there."""
    conditions = (resource.get("status") or {}).get("conditions") or []
    return next((entry for entry in conditions if entry["type"] == kind), None)


def states(kubectl: Kubectl, name: str, seconds: float, namespace: str = "default") -> Iterator[State]:
    """Every state that differs from the one before, until Ready; TimeoutError with the whole picture when it does not come."""
    last, deadline = None, time.monotonic() + seconds
    while last is None or not last.is_ready:
        resource = kubectl.get("mdep", name, namespace)
        state = State.of(resource) if resource else last
        if state is not None and state != last:
            last = state
            yield state
        if time.monotonic() > deadline:
            raise TimeoutError(f"{name} was not Ready after {seconds:.0f} s; last seen: {last}\n{kubectl.picture(namespace)}")
        time.sleep(POLL_SECONDS)


def wait_ready(kubectl: Kubectl, name: str, seconds: float = 180, namespace: str = "default") -> dict[str, Any]:
    """The resource once it is Ready and its status is of its newest spec."""
    for _ in states(kubectl, name, seconds, namespace):
        pass
    return kubectl.get("mdep", name, namespace) or {}


def wait_until(
    kubectl: Kubectl, name: str, what: str, holds: Callable[[dict[str, Any]], bool], seconds: float, namespace: str = "default"
) -> dict[str, Any]:
    """The resource once `holds` says so; TimeoutError with the whole picture otherwise."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        resource = kubectl.get("mdep", name, namespace)
        if resource and holds(resource):
            return resource
        time.sleep(POLL_SECONDS)
    raise TimeoutError(f"{name} did not show {what} within {seconds:.0f} s\n{kubectl.picture(namespace)}")
