"""Pods that nodes throw out or will not have, each replaced by the next: told once however often that happens, and what ends it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from jitney_operator.api import TEMPLATE, Json
from jitney_operator.observed import Observed, Pod
from support.plans import NOW, SMALL, conditions, make, resource, running

EVICTED = ("Evicted", 'Usage of EmptyDir volume "cache" exceeds the limit "1Mi". ')
UNHEALTHY = ("UnexpectedAdmissionError", "Allocate failed due to no healthy devices present; cannot allocate nvidia.com/gpu")
FULL = ("OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 110, capacity: 110")
ROUNDS = 3


def moment(second: int) -> str:
    return f"2026-01-01T00:{second // 60:02}:{second % 60:02}Z"


def pod_at(second: int, name: str, **status: Any) -> Pod:
    """A pod of the current revision, made then; with a status it has a node."""
    (body,) = (copy.deepcopy(pod.body) for pod in running(resource(**SMALL)).pods)
    body["metadata"] |= {"name": name, "uid": name, "creationTimestamp": moment(second)}
    if not status:
        del body["spec"]["nodeName"]
    return Pod({**body, "status": status})


def gone(second: int, name: str, cause: tuple[str, str]) -> Pod:
    """Made then, and thrown out half a minute later, or not taken at all."""
    reason, message = cause
    status: Json = {"phase": "Failed", "reason": reason, "message": message, "startTime": moment(second)}
    if reason == "Evicted":
        status["conditions"] = [{"type": "DisruptionTarget", "status": "True", "lastTransitionTime": moment(second + 30)}]
    return pod_at(second, name, **status)


def rounds(cause: tuple[str, str]) -> Iterator[list[tuple[Pod, ...]]]:
    """Round after round the pods that there are: the next has no node, is placed, runs, is over, and is replaced."""
    before: tuple[Pod, ...] = ()
    for number in range(ROUNDS):
        second, name = 30 * number, f"chat-{number}"
        states = [pod_at(second, name), pod_at(second, name, phase="Pending")]
        if cause is EVICTED:
            container = {"name": "runtime", "started": False, "state": {"running": {"startedAt": moment(second)}}}
            states.append(pod_at(second, name, phase="Running", podIP="10.0.0.1", containerStatuses=[container]))
        over = gone(second, name, cause)
        yield [(*before, state) for state in (*states, over)]
        before = (*before, over)


def observed(pods: tuple[Pod, ...], replicas: int = 1) -> Observed:
    """The Deployment's own counts come and go with its pods."""
    found = running(resource(**SMALL, replicas=replicas))
    assert found.deployment is not None
    alive = sum(not pod.over for pod in pods)
    found.deployment["status"] = {"observedGeneration": 1, "replicas": alive, "updatedReplicas": alive, "readyReplicas": 0}
    return replace(found, pods=pods)


def told(seen: Json, pods: tuple[Pod, ...], **spec: Any) -> Json:
    return make(resource(seen, **SMALL, **spec), observed(pods, spec.get("replicas", 1))).status(NOW)


ALONE: tuple[Pod, ...] = ()
SERVING = pod_at(0, "chat-serving", phase="Running", conditions=[{"type": "Ready", "status": "True"}])
SERVING.body["metadata"]["creationTimestamp"] = "2025-12-31T00:00:00Z"
OF_BEFORE = Pod({**SERVING.body, "metadata": {**SERVING.body["metadata"], "annotations": {TEMPLATE: "before"}}})


@pytest.mark.parametrize("others", [ALONE, (SERVING,), (OF_BEFORE,)], ids=["alone", "beside one that serves", "behind the revision before"])
@pytest.mark.parametrize(
    ("cause", "reason"), [(EVICTED, "DiskFull"), (UNHEALTHY, "DeviceNotFound"), (FULL, "Unschedulable")], ids=lambda cause: cause[0]
)
def test_it_is_told_in_the_first_round_only(cause: tuple[str, str], reason: str, others: tuple[Pod, ...]):
    replicas = 2 if others == (SERVING,) else 1
    seen: Json = {}
    told_in = []
    for states in rounds(cause):
        told_in.append([seen := told(seen, (*others, *pods), replicas=replicas) for pods in states])
    # The first pod is over at the end of the first round: all is told when the next has been made.
    first, *later = [status for states in told_in[1:] for status in states]
    assert [status for status in later if status != first] == []
    assert (first["reason"], first["lastFailure"]["reason"]) == (reason, reason)
    assert conditions(first)["Scheduled"][0] == ("False" if reason == "Unschedulable" else "Unknown")
    assert (first["replicas"], first["updatedReplicas"]) == (1 + len(others), replicas)


def test_what_keeps_the_next_from_being_made_is_told_with_the_gap():
    first, second, _ = (states[-1] for states in rounds(EVICTED))
    seen = told(told({}, (*first, pod_at(30, "chat-1"))), second)
    assert (seen["reason"], seen["replicas"], seen["updatedReplicas"]) == ("DiskFull", 1, 1)
    without = observed(second)
    assert without.deployment is not None
    words = 'pods "chat-2" is forbidden: exceeded quota: a'
    refused = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": words}
    without.deployment["status"]["conditions"] = [refused]
    seen = make(resource(seen, **SMALL), without).status(NOW)
    assert (seen["reason"], seen["replicas"], seen["updatedReplicas"]) == ("QuotaExceeded", 0, 0)


@pytest.mark.parametrize("wanted", [{"suspend": True}, {"replicas": 0}], ids=str)
def test_where_no_pod_is_wanted_none_is_missed(wanted: dict[str, Any]):
    first, *_ = rounds(FULL)
    failing = told({}, (*first[-1], pod_at(30, "chat-1")))
    assert failing["reason"] == "Unschedulable"
    mdep = resource(failing, **SMALL, **wanted)
    seen = make(mdep, replace(running(mdep), pods=first[-1])).status(NOW)
    assert (seen["replicas"], seen["updatedReplicas"]) == (0, 0)
    assert conditions(seen)["Scheduled"] != ("False", "Unschedulable")


def test_fewer_are_counted_when_fewer_are_wanted():
    (*_, first), _, _ = rounds(EVICTED)
    slow = pod_at(0, "chat-slow", phase="Pending")
    failing = told({}, (*first, slow, pod_at(30, "chat-1")), replicas=2)
    assert told(failing, (*first, slow), replicas=2) == failing
    assert told(failing, first, replicas=1)["replicas"] == 1


def test_once_the_next_is_ready_it_is_over():
    """Also when that one goes, and the pod that was thrown out long before is still there to see."""
    (*_, first), _, _ = rounds(EVICTED)
    failing = told({}, (*first, pod_at(30, "chat-1")))
    ready = pod_at(30, "chat-1", phase="Running", conditions=[{"type": "Ready", "status": "True"}])
    # The Deployment says so a moment later.
    serving = told(failing, (*first, ready))
    assert conditions(serving)["ModelLoaded"] == ("True", "Loaded")
    assert told(serving, first)["reason"] == "Pending"


def test_a_new_revision_begins_anew():
    (*_, first), _, _ = rounds(EVICTED)
    failing = told({}, (*first, pod_at(30, "chat-1")))
    of_before = tuple(Pod({**pod.body, "metadata": {**pod.body["metadata"], "annotations": {TEMPLATE: "before"}}}) for pod in first)
    seen = told(failing, of_before)
    assert (seen["reason"], seen["updatedReplicas"]) == ("Pending", 0)
