"""A rollout that Kubernetes gave up: said as long as it is so, and no longer."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from jitney_operator import plan
from jitney_operator.api import TEMPLATE, ModelDeployment
from jitney_operator.observed import Observed, Pod
from support.plans import CATALOGUE, NOW, SETTINGS, SMALL, conditions, make, resource, running

SAID, BEFORE, AFTER = "2026-01-01T01:00:00Z", "2026-01-01T00:30:00Z", "2026-01-01T01:00:01Z"
PULL = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}}}
RUNS = {"started": True, "state": {"running": {"startedAt": BEFORE}}}


def given_up(mdep: ModelDeployment, container: dict[str, Any], ready: str = "False", moved: str = BEFORE) -> Observed:
    observed = running(mdep, container, PodScheduled="True", Ready=ready)
    (pod,) = observed.pods
    pod.body["metadata"]["creationTimestamp"] = BEFORE
    for entry in pod.body["status"]["conditions"]:
        entry["lastTransitionTime"] = moved
    verdict = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "lastUpdateTime": SAID}
    assert observed.deployment is not None
    observed.deployment["status"]["conditions"] = [verdict]
    return observed


def said(observed: Observed, **spec: Any) -> dict[str, tuple[str, str]]:
    return conditions(make(resource(**SMALL, **spec), observed).status(NOW))


def test_it_is_told_with_what_is_in_the_way():
    mdep = resource(**SMALL)
    status = make(mdep, given_up(mdep, PULL)).status(NOW)
    found = {entry["type"]: entry for entry in status["conditions"]}
    assert status["reason"] == "ImagePullError"
    assert (found["Progressing"]["status"], found["Progressing"]["reason"]) == ("False", "DeadlineExceeded")
    assert (found["Stalled"]["status"], found["Stalled"]["reason"]) == ("True", "DeadlineExceeded")
    assert found["Stalled"]["message"].startswith("The rollout did not finish in time. The image ")


def test_a_pod_that_never_becomes_ready_needs_no_failure():
    found = said(given_up(resource(**SMALL), RUNS))
    assert (found["Progressing"][1], found["Stalled"][1]) == ("DeadlineExceeded", "DeadlineExceeded")


@pytest.mark.parametrize(
    ("container", "ready", "moved"),
    [
        # A node came late: the pod has got it now, and its image is on the way.
        ({"state": {"waiting": {"reason": "ContainerCreating"}}}, "False", AFTER),
        # What was wrong with the image was put right.
        (RUNS | {"started": False, "state": {"running": {"startedAt": AFTER}}}, "False", BEFORE),
        # The Deployment does not say yet that it is ready.
        (RUNS, "True", AFTER),
    ],
)
def test_a_pod_that_moves_again_is_on_its_way(container: dict[str, Any], ready: str, moved: str):
    observed = given_up(resource(**SMALL), container, ready, moved)
    assert observed.deployment is not None
    observed.deployment["status"]["readyReplicas"] = 0
    found = said(observed)
    assert found["Progressing"] == ("True", "RollingOut")
    assert "Stalled" not in found


def test_a_new_spec_begins_anew():
    """Its Deployment is written, no pod of it is made, and the controller's verdict is of the one before."""
    observed = given_up(resource(**SMALL), PULL)
    observed.pods[0].body["metadata"]["annotations"] = {TEMPLATE: "before"}
    assert observed.deployment is not None
    observed.deployment["metadata"]["generation"] = 2
    found = said(observed)
    assert found["Progressing"] == ("True", "RollingOut")
    assert "Stalled" not in found


def test_another_scale_of_what_stands_still_changes_nothing():
    """The controller has not seen it, and has nothing new to say of the pods when it has."""
    observed = given_up(resource(**SMALL), PULL)
    assert observed.deployment is not None
    observed.deployment["metadata"]["generation"] = 2
    observed.deployment["spec"]["replicas"] = 2
    found = said(observed, replicas=2)
    assert (found["Progressing"][1], found["Stalled"][1]) == ("DeadlineExceeded", "DeadlineExceeded")


def test_back_to_a_revision_whose_pods_serve():
    """The controller keeps its verdict until the pods of the revision that failed are gone."""
    mdep = resource(**SMALL)
    observed = given_up(mdep, RUNS, "True")
    (pod,) = observed.pods
    other = copy.deepcopy(pod.body)
    other["metadata"] |= {"name": "chat-0", "uid": "p0", "annotations": {}, "deletionTimestamp": AFTER}
    other["status"] |= {"containerStatuses": [{"name": "runtime", **PULL}], "conditions": []}
    assert observed.deployment is not None
    observed.deployment["status"]["replicas"] = 2
    found = conditions(plan.make(mdep, replace(observed, pods=(pod, Pod(other))), SETTINGS, CATALOGUE).status(NOW))
    assert found["Progressing"] == ("True", "RollingOut")
    assert "Stalled" not in found


def test_a_rollout_that_ended_well_is_not_overdue():
    found = said(given_up(resource(**SMALL), RUNS, "True"))
    assert found["Progressing"] == ("False", "Complete")
    assert "Stalled" not in found
