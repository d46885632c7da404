"""Why no pod is there yet: one of before that must go first, a gate, a scheduler that fails."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from jitney_operator import failures, plan
from jitney_operator.api import TEMPLATE
from jitney_operator.conditions import Progress
from jitney_operator.observed import Observed, Pod
from support.plans import CATALOGUE, NOW, SETTINGS, SMALL, conditions, make, resource, running


def leaving(observed: Observed) -> Observed:
    """Its pod is of a revision before, and finishes its answers."""
    (pod,) = observed.pods
    old = copy.deepcopy(pod.body)
    old["metadata"] |= {"deletionTimestamp": NOW, "annotations": {TEMPLATE: "before"}}
    return replace(observed, pods=(Pod(old),))


@pytest.mark.parametrize(("strategy", "reason"), [("Recreate", "WaitingForDrain"), ("RollingUpdate", "Pending")])
def test_with_recreate_the_pods_of_before_are_waited_for(strategy: str, reason: str):
    mdep = resource(**SMALL, rollout={"strategy": strategy})
    status = make(mdep, leaving(running(mdep, Ready="True"))).status(NOW)
    assert conditions(status)["Scheduled"] == ("Unknown", reason)
    assert conditions(status)["Ready"] == ("False", reason)


@pytest.mark.parametrize("why", ["of this revision", "on a lost node"])
def test_a_pod_that_finishes_nothing_is_not_waited_for(why: str):
    mdep = resource(**SMALL, rollout={"strategy": "Recreate"})
    observed = leaving(running(mdep, Ready="True"))
    (pod,) = observed.pods
    if why == "of this revision":
        pod.body["metadata"]["annotations"] = running(mdep).pods[0].body["metadata"]["annotations"]
    else:
        pod.body["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}, {"type": "ContainersReady", "status": "True"}]
    assert conditions(make(mdep, observed).status(NOW))["Scheduled"] == ("Unknown", "Pending")


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates"),
        ("Unschedulable", "0/2 nodes are available"),
    ],
)
def test_whatever_keeps_it_from_a_node_is_told(reason: str, message: str):
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    failure = failures.of_pod(Pod({"metadata": {"name": "p"}, "spec": {"containers": []}, "status": {"conditions": [condition]}}))
    assert failure is not None
    assert failure.reason == "Unschedulable"
    assert message in failure.message


@pytest.mark.parametrize(
    "beside", ["", " preemption: 0/1 nodes are available: 1 No victims.", " no new claims to deallocate, preemption: none."]
)
def test_of_the_schedulers_words_those_that_help_are_told(beside: str):
    message = f"0/1 nodes are available: 1 Insufficient memory.{beside}"
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    failure = failures.of_pod(Pod({"metadata": {"name": "p"}, "spec": {"containers": []}, "status": {"conditions": [condition]}}))
    assert failure is not None
    assert failure.message == "No node has enough free memory: 0/1 nodes are available: 1 Insufficient memory."


@pytest.mark.parametrize(
    ("args", "said"), [(["--max-model-len=24"], "maxModelLen 16 (now 24)"), (["--max-num-seqs=1"], ""), (["--max-model-len=16"], "")]
)
def test_no_figure_is_advised_that_the_schema_refuses(args: list[str], said: str):
    mdep = resource(**SMALL, resourceProfile="gpu")
    (pod,) = running(mdep, {"state": {"terminated": {"exitCode": 15, "message": "GPUOutOfMemory: too small"}}}).pods
    pod.spec_of_container["args"] = args
    failure = failures.of_pod(pod)
    assert failure is not None
    assert said in failure.message
    assert ("Try " in failure.message) == bool(said)


@pytest.mark.parametrize(
    ("code", "reason", "line", "gone"),
    [
        (11, "Unauthorized", "downloading 1.2/3.1 GB", True),
        (11, "Unauthorized", "downloading 0/31 MB", False),
        (11, "Unauthorized", "downloading 0.0/3.1 GB", False),
        (11, "Unauthorized", "starting", False),
        (10, "ModelNotFound", "loading 40 %", True),
        (10, "ModelNotFound", "loading 0 %", True),
        (11, "Unauthorized", "loading 0 %; the pod has not answered for 15 s", True),
        (11, "Unauthorized", "waiting for the readiness probe", True),
        (12, "HubUnreachable", "downloading 1.2/3.1 GB", False),
        (12, "HubUnreachable", "loading 1 %", True),
        (18, "CacheNotWritable", "warming up", True),
        (14, "OutOfMemory", "loading 90 %", False),
    ],
)
def test_a_cause_that_was_put_right_is_not_told_while_the_start_goes_on(code: int, reason: str, line: str, gone: bool):
    """Where the same failure would come later in the start, each restart would be two writes."""
    mdep = resource(**SMALL)
    ended = {"terminated": {"exitCode": code, "message": f"{reason}: it was so"}}
    observed = running(mdep, {"state": {"running": {}}, "lastState": ended, "restartCount": 1}, Ready="False")
    words = {"downloading": "Downloading", "starting": "Downloading", "loading": "Loading", "warming": "WarmingUp", "waiting": "WarmingUp"}
    word = words[line.split()[0]]
    status = plan.make(mdep, observed, SETTINGS, CATALOGUE, Progress(word, line)).status(NOW)
    assert conditions(status)["ModelLoaded"] == ("False", word if gone else reason)
    assert status.get("progress", "") == (line if gone else "")


@pytest.mark.parametrize(
    ("line", "told"),
    [("x" * 256, "x" * 256), ("x" * 256 + "; the pod has not answered for 15 s", "x" * 255 + "\N{HORIZONTAL ELLIPSIS}")],
    ids=["full", "silent"],
)
def test_progress_is_never_longer_than_its_field(line: str, told: str):
    """The server would refuse the whole status, again and again."""
    mdep = resource(**SMALL)
    observed = running(mdep, {"state": {"running": {}}}, Ready="False")
    assert plan.make(mdep, observed, SETTINGS, CATALOGUE, Progress("Loading", line)).status(NOW)["progress"] == told
