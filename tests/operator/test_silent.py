"""A pod that served and misses its readiness probe is told as that. Each start passes by a state that looks like it, and stays a start."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from jitney_operator import events, plan, scrape
from jitney_operator.api import LABEL, Json, Key
from jitney_operator.conditions import Progress
from jitney_operator.observed import Observed, Pod
from jitney_operator.store import Store
from support.plans import CATALOGUE, NOW, SETTINGS, SMALL, conditions, resource, running

BEFORE, BEGAN, AFTER = "2026-01-01T00:29:58Z", "2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"
# Of the process before.
TOLD_LATE = "2026-01-01T00:30:02Z"
MDEP = resource(**SMALL)
SAYS = Progress("NotAnswering", "the engine has stopped", "chat-1")
TOLD = "Pod chat-1 was ready and does not answer its readiness probe."


def not_ready(since: str, **container: Any) -> Observed:
    """One pod that is not ready since then; its process began at BEGAN."""
    states = {"started": True, "ready": False, "state": {"running": {"startedAt": BEGAN}}} | container
    observed = running(MDEP, states, PodScheduled="True", Ready="False", ContainersReady="False")
    body = observed.pods[0].body
    body["status"]["podIP"] = "10.0.0.1"
    for entry in body["status"]["conditions"]:
        entry["lastTransitionTime"] = since
    return observed


def status(observed: Observed, progress: Progress | None = None) -> Json:
    return plan.make(MDEP, observed, SETTINGS, CATALOGUE, progress).status(NOW)


def test_it_is_told_and_may_pass():
    found = status(not_ready(AFTER))
    said = conditions(found)
    assert (said["ModelLoaded"], said["Ready"]) == (("False", "NotAnswering"), ("False", "NotAnswering"))
    assert said["Available"] == ("False", "NoReadyReplica")
    assert "Stalled" not in said
    assert "progress" not in found
    assert (found["lastFailure"]["message"], found["lastFailure"]["pod"]) == (TOLD, "chat-1")
    told = events.transition(MDEP, found, "me", datetime.now(UTC))
    assert told is not None
    assert (told["type"], told["reason"], told["note"]) == ("Warning", "NotAnswering", TOLD)


def test_it_is_told_of_one_that_ended_before_and_came_back():
    last = {"lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}
    assert status(not_ready(AFTER, **last))["reason"] == "NotAnswering"


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("since", [BEFORE, BEGAN, TOLD_LATE])
def test_a_start_is_none_also_between_its_startup_probe_and_its_first_readiness(started: bool, since: str):
    warm = Progress("WarmingUp", "waiting for the readiness probe")
    found = status(not_ready(since, started=started), warm)
    assert (found["reason"], found["progress"]) == ("WarmingUp", warm.line)
    assert status(not_ready(since, started=started))["progress"] == "starting on n"


def test_a_process_that_came_after_the_one_that_served_is_a_start():
    """Not ready since the end of the one before."""
    found = not_ready(AFTER, state={"running": {"startedAt": "2026-01-01T01:00:20Z"}})
    assert not found.pods[0].silent


@pytest.mark.parametrize("container", [{"ready": True}, {"state": {"running": {}}}, {"state": {"terminated": {"exitCode": 1}}}])
def test_it_is_the_runtime_that_does_not_answer(container: Json):
    """And not a sidecar beside it, a process of which nothing is known, or one that has ended."""
    assert not not_ready(AFTER, **container).pods[0].silent


def test_what_is_being_ended_falls_silent_and_has_not_failed():
    leaving, shut = not_ready(AFTER).pods[0].body, not_ready(AFTER).pods[0].body
    leaving["metadata"]["deletionTimestamp"] = AFTER
    shut["status"]["conditions"].append({"type": "DisruptionTarget", "status": "True"})
    for body in (leaving, shut):
        observed = replace(not_ready(AFTER), pods=(Pod(body),))
        assert plan.make(MDEP, observed, SETTINGS, CATALOGUE).facts.failure is None


def test_what_it_says_of_itself_is_told_with_it_and_is_no_progress():
    found = status(not_ready(AFTER), SAYS)
    assert found["lastFailure"]["message"] == f"{TOLD} It says: the engine has stopped."
    assert "progress" not in found
    assert status(not_ready(AFTER), replace(SAYS, pod="chat-2"))["lastFailure"]["message"] == TOLD
    # Of a revision before, for instance.
    assert status(not_ready(BEFORE), SAYS)["progress"] == "starting on n"


class Asking:
    def __init__(self, body: Any) -> None:
        self._body = json.dumps(body).encode()

    async def ask(self, *_: object) -> bytes:
        return self._body


@pytest.mark.parametrize(
    ("answer", "silent", "heard"),
    [
        ({"status": "failed", "reason": "CrashLoop", "progress": "the engine has stopped"}, True, SAYS),
        ({"status": "failed", "reason": "CrashLoop", "progress": "the engine has stopped"}, False, None),
        ({"status": "failed"}, True, None),
        ({"status": "ready"}, True, None),
        ({"status": "draining"}, True, None),
        ({"status": "ready"}, False, Progress("WarmingUp", "waiting for the readiness probe")),
        ({"status": "starting", "reason": "Loading", "progress": "loading 3 %"}, False, Progress("Loading", "loading 3 %")),
        (["failed"], True, None),
    ],
)
async def test_what_is_heard_of_it(answer: Any, silent: bool, heard: Progress | None):
    (pod,) = not_ready(AFTER if silent else BEFORE).pods
    assert await scrape._progress_of(Asking(answer), pod) == heard  # type: ignore[arg-type]


def test_a_pod_on_its_way_is_asked_before_one_that_fell_silent():
    store, key = Store(), Key("team", "chat")
    for name, since in (("a", AFTER), ("b", BEFORE)):
        body = not_ready(since).pods[0].body
        metadata = {"name": name, "uid": name, "namespace": "team", "labels": {LABEL: "chat"}, "resourceVersion": "1"}
        store.put({**body, "kind": "Pod", "metadata": metadata})
        assert [pod.name for pod in store.loading().values()] == [name]
    assert store.starting(key) == store.loading()[key]
