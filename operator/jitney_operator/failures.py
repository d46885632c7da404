"""Why no pod serves: the first cause among them, in the order in which a start can fail. Pure."""

from __future__ import annotations

import re
from dataclasses import replace

from jitney_operator import containers, exits, placing
from jitney_operator.api import Json
from jitney_operator.failure import Failure
from jitney_operator.observed import Observed, Pod, Trouble
from jitney_operator.words import alike


def of(observed: Observed, pods: tuple[Pod, ...], over: tuple[Pod, ...], status: Json) -> Failure | None:
    """The first cause among these pods, or that no pod could be made, or what ended those that are `over`. `status` is the one so far."""
    told = status.get("lastFailure") or {}
    found = (of_pod(pod, observed.pods, observed.troubles.get(pod.uid), told) for pod in sorted(pods, key=lambda pod: pod.name))
    if failure := next(filter(None, found), None) or of_deployment(observed):
        return _as_told(failure, told)
    said = {condition["reason"] for condition in status.get("conditions", ())}
    return placing.of_the_one_before(pods, over, told.get("pod", "") if told.get("reason") in said else "", observed.wanted)


def _as_told(failure: Failure, told: Json) -> Failure:
    """The same cause in the same words is told once, not at each attempt, although a time, an id or a figure in them is another.

    Only of the same pod and exit code: another pod may come from another spec, whose names may differ in a number only. And not of what the
    scheduler and a quota say, whose figures are news.
    """
    same = (failure.reason, failure.pod, failure.exit_code) == (told.get("reason"), told.get("pod", ""), told.get("exitCode"))
    before = str(told.get("message", ""))
    # What an image of one's own, or the node, says has numbers everywhere; our own sentences have them in names that matter.
    figures = failure.schedules and failure.reason != "PolicyDenied"
    if figures or not same or not alike(before, failure.message, names=failure.reason != "CrashLoop"):
        return failure
    return replace(failure, message=before)


def of_deployment(observed: Observed) -> Failure | None:
    condition = observed.deployment_condition("ReplicaFailure")
    # The other reason is FailedDelete: a pod too many that cannot be removed keeps no model from serving.
    if (condition.get("status"), condition.get("reason")) != ("True", "FailedCreate"):
        return None
    # The generated pod name in the message differs at every attempt and would cause a write each.
    message = re.sub(r'pods "[^"]*" ', "pods ", condition.get("message", ""))
    if "exceeded quota" in message:
        return Failure("QuotaExceeded", f"The namespace's quota does not allow another pod: {message}")
    return Failure("PolicyDenied", f"The cluster refuses to make the pod: {message}")


def of_pod(pod: Pod, others: tuple[Pod, ...] = (), trouble: Trouble | None = None, told: Json | None = None) -> Failure | None:
    """None while the pod is ready or simply on its way."""
    if pod.leaving or pod.ready:
        return None
    return (
        placing.unscheduled(pod, others)
        or placing.lost(pod)
        or containers.waiting(pod, told or {})
        or exits.of_pod(pod)
        or containers.stuck(pod, trouble, told or {})
        or _fallen_silent(pod)
    )


def _fallen_silent(pod: Pod) -> Failure | None:
    if not pod.silent:
        return None
    return Failure("NotAnswering", f"Pod {pod.name} was ready and does not answer its readiness probe.", pod.name, contained=True)
