"""Situations in which Kubernetes knows something, and the word that the resource must show soon after; at the end a table of them all."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cluster.kubectl import Kubectl
from product.eye import Eye, Seen
from product.resource import condition

LABEL = "serving.jitney.dev/model-deployment"
# Generous: the suite shares two cores with everything else. The table has the seconds.
KNOWN_SECONDS, SHOWN_SECONDS = 180.0, 30.0
# What a row may take. It is not the wait that ends there but the run that fails, so that a person sees how late it was.
TRUTH_SECONDS = 5.0
# Each must be in the table when the whole suite has run.
NEEDED = frozenset({
    "image not in the registry", "image needs credentials", "registry unreachable", "registry has no such host", "no node matches",
    "not enough memory on any node", "no free GPU", "memory limit exceeded", "CUDA out of memory", "no CUDA device", "model not found",
    "model not found on the hub", "hub says unauthorized", "hub unreachable", "disk full", "crash loop", "start takes too long",
    "Secret missing", "claim missing", "claim without a volume", "quota used up", "name taken", "download under way", "load under way",
    "rollout under way", "rollout stuck", "rollout out of time", "rollout done", "suspended", "scaled to zero", "node lost",
    "generation not observed yet", "download moving", "load moving", "volume cannot be mounted", "cache not writable",
    "pod refused by a policy", "sandbox cannot be made", "pod evicted",
})  # fmt: skip
# Hub and registry are on this machine, where neither pods nor nodes of another cluster reach them. Only here the kubelet is ours to stop.
LOCAL_ONLY = frozenset({
    "model not found on the hub", "hub says unauthorized", "hub unreachable", "CUDA out of memory", "disk full", "download under way",
    "start takes too long", "download moving", "load moving", "cache not writable", "claim without a volume", "image not in the registry",
    "image needs credentials", "registry unreachable", "node lost",
})  # fmt: skip


@dataclass(frozen=True)
class Knows:
    """How Kubernetes itself shows that it knows: an object of `kind` that `holds`. A runtime, of what is going on in it."""

    kind: str
    holds: Callable[[Seen], bool]
    # Of a pod that failed, or of its container: the resource must name it.
    of_a_pod: bool = False
    contained: bool = False


@dataclass(frozen=True)
class Row:
    """`seconds` from the moment Kubernetes knew to the moment the resource said it; of what moves, of a line that was not the first."""

    situation: str
    test: str
    reason: str
    seconds: float

    @property
    def wrong(self) -> str:
        late = self.seconds > TRUTH_SECONDS
        return f"LATE: {self.situation} after {self.seconds:.2f} s of {TRUTH_SECONDS:.0f}, {self.test}" if late else ""


# Of these the known side is no object that somebody else writes.
NOTE = """Downloads and loads are known when the suite's own question to the runtime, five times a second, was answered so.
A generation that is not observed yet is the resource beside itself: the server fills in what is shown, so it is 0.00 s if it is right."""


def table(rows: list[Row]) -> str:
    lines = [f"{'situation':<32} {'reason shown':<20} {'after':>7}  test"]
    for row in sorted(rows, key=lambda row: row.situation):
        lines.append(f"{row.situation:<32} {row.reason:<20} {row.seconds:>5.2f} s  {row.test}")
    return "\n".join([*lines, "", NOTE])


class Situation:
    """Waits for both sides of one situation in one namespace, and keeps a row of it."""

    def __init__(self, eye: Eye, kubectl: Kubectl, namespace: str, test: str, rows: list[Row]) -> None:
        self._eye, self._kubectl, self._namespace, self._test, self._rows = eye, kubectl, namespace, test, rows

    def elsewhere(self, namespace: str) -> Situation:
        """For a resource that is not in the test's own namespace."""
        return Situation(self._eye, self._kubectl, namespace, self._test, self._rows)

    def __call__(
        self, situation: str, name: str, knows: Knows, kind: str, reason: str, status: str = "False", *, since: float = 0.0
    ) -> Seen:
        """The resource `name` once its condition `kind` has this status and reason, and the one word is the same.

        `since`, in Unix time, where the resource may have said so before for another cause.
        """

        def belongs(found: Seen) -> bool:
            metadata, regards = found["metadata"], found.get("involvedObject", {}).get("name", "")
            mine = metadata.get("labels", {}).get(LABEL) == name or metadata["name"] == name or regards.startswith(f"{name}-")
            return mine and metadata.get("namespace", self._namespace) == self._namespace and knows.holds(found)

        def shows(found: Seen) -> bool:
            metadata, entry = found["metadata"], condition(found, kind) or {}
            if (metadata["namespace"], metadata["name"]) != (self._namespace, name) or entry.get("status") != status:
                return False
            word = found["status"].get("reason") if kind != "Progressing" else reason
            return bool(entry.get("reason") == word == reason)

        known = self._eye.first(knows.kind, belongs, KNOWN_SECONDS, f"{situation} on {knows.kind} of {name}", since)
        try:
            shown = self._eye.first("modeldeployments", shows, SHOWN_SECONDS, f"{kind}={status} {reason} on {name}", since)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self._kubectl.picture(self._namespace)}") from error
        self._rows.append(Row(situation, self._test, reason, max(0.0, shown - known)))
        print(f"\n{situation}: {name} says {reason} {max(0.0, shown - known):.2f} s after Kubernetes knew")
        seen: Seen = self._kubectl.get("mdep", name, self._namespace) or {}
        self._described(name, kind, seen)
        if knows.of_a_pod:
            failure = seen["status"].get("lastFailure", {})
            assert failure.get("reason") == reason, failure
            assert failure.get("pod", "").startswith(name), failure
            assert not {"message", "time"} - set(failure), failure
            assert not knows.contained or failure.get("container") == "runtime", failure
        return seen

    def moved(self, situation: str, name: str, pattern: str) -> None:
        """The resource `name` once it has told two different lines of progress that match `pattern`, whose group is a number that grows.

        The row is how late the second one was after the runtime itself had come so far. How long after the first one it comes says nothing:
        lines are written 5 s apart, so that a long download is not a write each second.
        """
        lines: list[str] = []
        reason = ""

        def tells(found: Seen) -> bool:
            """A line that was not told before."""
            nonlocal reason
            metadata, line = found["metadata"], found["status"].get("progress", "")
            if (metadata["namespace"], metadata["name"]) != (self._namespace, name) or line in lines or not re.fullmatch(pattern, line):
                return False
            lines.append(line)
            reason = found["status"].get("reason", "")
            return True

        def has_come_so_far(found: Seen) -> bool:
            metadata, so_far = found["metadata"], re.fullmatch(pattern, found["said"]["progress"])
            mine = (metadata["namespace"], metadata["labels"][LABEL]) == (self._namespace, name)
            return bool(mine and so_far and float(so_far[1]) >= float(re.fullmatch(pattern, lines[1])[1]))  # type: ignore[index]

        try:
            first = self._eye.first("modeldeployments", tells, KNOWN_SECONDS, f"{situation}: a line of {name}")
            second = self._eye.first("modeldeployments", tells, SHOWN_SECONDS, f"{situation}: a line of {name} after {lines}", first)
            known = self._eye.first("runtimes", has_come_so_far, SHOWN_SECONDS, f"{situation}: a pod of {name} at {lines[1]}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self._kubectl.picture(self._namespace)}") from error
        late = max(0.0, second - known)
        self._rows.append(Row(situation, self._test, reason, late))
        print(f"\n{situation}: {name} says {lines[0]!r}, and {second - first:.2f} s later {lines[1]!r}, {late:.2f} s after its pod did")

    def _described(self, name: str, kind: str, seen: Seen) -> None:
        """`kubectl describe` alone has the whole sentence, and the failure with its pod and container."""
        failure = seen["status"].get("lastFailure", {})
        told = [(condition(seen, kind) or {}).get("message", ""), *(str(failure.get(part, "")) for part in ("pod", "container", "time"))]
        described = self._kubectl("describe", "mdep", name, "-n", self._namespace)
        missing = [text for text in told if text not in described]
        assert not missing, f"not in what kubectl describes: {missing}\n{described}"


def _container(pod: Seen) -> dict[str, Any]:
    return next(iter(pod["status"].get("containerStatuses") or []), {})


def _ended(pod: Seen) -> bool:
    status = _container(pod)
    return bool(status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated"))


def _unplaced(pod: Seen) -> bool:
    conditions = pod["status"].get("conditions") or []
    return any(entry["type"] == "PodScheduled" and entry["status"] == "False" for entry in conditions)


def _refused(deployment: Seen) -> bool:
    conditions = deployment.get("status", {}).get("conditions") or []
    return any(entry["type"] == "ReplicaFailure" and entry["status"] == "True" for entry in conditions)


ENDED = Knows("pods", _ended, of_a_pod=True, contained=True)
UNPLACED = Knows("pods", _unplaced, of_a_pod=True)
REFUSED = Knows("deployments", _refused)


def waiting(*reasons: str, words: str = "") -> Knows:
    """A container that cannot start, with these words where the reason alone does not say why."""

    def holds(pod: Seen) -> bool:
        found = _container(pod).get("state", {}).get("waiting", {})
        return found.get("reason") in reasons and words in found.get("message", "")

    return Knows("pods", holds, True, True)


def says(reason: str) -> Knows:
    """A runtime that is on its way, asked by the suite itself: Kubernetes knows nothing of what goes on in it."""
    return Knows("runtimes", lambda found: found["said"].get("reason") == reason)


def told(*reasons: str) -> Knows:
    """An Event."""
    return Knows("events", lambda event: event.get("reason") in reasons)
