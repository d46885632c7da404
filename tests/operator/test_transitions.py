"""What is new about a resource: a condition's time moves with its status alone, and each new state is one Event."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from jitney_operator import events, plan
from jitney_operator.conditions import Progress
from support.plans import CATALOGUE, NOW, SETTINGS, SMALL, make, resource, running

LATER = "2026-01-01T08:00:00Z"


def loaded(status: dict[str, Any]) -> tuple[str, str, str]:
    entry = next(entry for entry in status["conditions"] if entry["type"] == "ModelLoaded")
    return entry["status"], entry["reason"], entry["lastTransitionTime"]


def test_another_reason_keeps_the_time_and_another_status_moves_it():
    mdep = resource(**SMALL)
    observed = running(mdep, Ready="False")
    first = plan.make(mdep, observed, SETTINGS, CATALOGUE, Progress("Downloading", "downloading 1/3 MB")).status(NOW)
    assert loaded(first) == ("False", "Downloading", NOW)
    second = plan.make(resource(first, **SMALL), observed, SETTINGS, CATALOGUE, Progress("Loading", "loading 1 %")).status(LATER)
    assert loaded(second) == ("False", "Loading", NOW)
    third = make(resource(second, **SMALL), running(mdep, Ready="True")).status(LATER)
    assert loaded(third) == ("True", "Loaded", LATER)


def status(failing: str = "", progress: str = "", **conditions: str) -> dict[str, Any]:
    """Conditions as `Status Reason`."""
    parts = {kind: words.split() for kind, words in {"Accepted": "True Fits", **conditions}.items()}
    entries = [{"type": kind, "status": word, "reason": reason, "message": f"{kind} says so."} for kind, (word, reason) in parts.items()]
    kept = {"lastFailure": {"reason": failing}} if failing else {}
    return {"conditions": entries, **kept, **({"progress": progress} if progress else {})}


def told(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, str, str] | None:
    event = events.transition(resource(before, **SMALL), after, "operator", datetime(2026, 1, 1, tzinfo=UTC))
    return event and (event["reason"], event["type"], event["note"])


STUCK = {"Ready": "False ImagePullError", "ModelLoaded": "False ImagePullError", "Available": "True Serving"}
SERVES = {"Ready": "True Ready", "Available": "True Serving"}


@pytest.mark.parametrize(
    ("before", "after", "event"),
    [
        # Everything moves at once: one word for all of it.
        (
            status(Ready="True Ready", Progressing="False Complete", Available="True Serving"),
            status("OutOfMemory", Ready="False OutOfMemory", Progressing="True RollingOut", Available="False NoReadyReplica"),
            ("OutOfMemory", "Warning", "Ready says so."),
        ),
        (
            status(Ready="False Pending"),
            status(progress="loading 1 %", Ready="False Loading"),
            ("Loading", "Normal", "Ready says so. (loading 1 %)"),
        ),
        (status(Ready="False Loading"), status(Ready="True Ready"), ("Ready", "Normal", "Ready says so.")),
        # A rollout that is stuck behind a revision that serves runs out of time: Ready says what it said.
        (
            status("ImagePullError", Progressing="True RollingOut", **STUCK),
            status("ImagePullError", Progressing="False DeadlineExceeded", Stalled="True DeadlineExceeded", **STUCK),
            ("DeadlineExceeded", "Warning", "Stalled says so."),
        ),
        # A cause that only a person can act on, and then no time either.
        (
            status("Unauthorized", Ready="False Unauthorized", Progressing="True RollingOut", Stalled="True Unauthorized"),
            status("Unauthorized", Ready="False Unauthorized", Progressing="False DeadlineExceeded", Stalled="True Unauthorized"),
            ("DeadlineExceeded", "Warning", "Progressing says so."),
        ),
        (
            status("Unschedulable", Ready="False Unschedulable", Progressing="False DeadlineExceeded", Stalled="True DeadlineExceeded"),
            status("Unschedulable", Ready="False Unschedulable", Progressing="True RollingOut"),
            ("RollingOut", "Normal", "Progressing says so."),
        ),
        # Behind a Ready that stays True: nobody knows who scales it, and then somebody does.
        (
            status(Progressing="False Complete", **SERVES),
            status(Progressing="False AutoscalerUnknown", **SERVES),
            ("AutoscalerUnknown", "Warning", "Progressing says so."),
        ),
        (
            status(Progressing="False AutoscalerUnknown", **SERVES),
            status(Progressing="False Complete", **SERVES),
            ("Complete", "Normal", "Progressing says so."),
        ),
        # The old revision's last pod is gone: a failure keeps the next from coming, or nothing does.
        (
            status("ImagePullError", **STUCK),
            status("ImagePullError", **STUCK | {"Available": "False NoReadyReplica"}),
            ("NoReadyReplica", "Warning", "Available says so."),
        ),
        (
            status("ImagePullError", Ready="False Pending", Available="True Serving"),
            status("ImagePullError", Ready="False Pending", Available="False NoReadyReplica"),
            ("NoReadyReplica", "Normal", "Available says so."),
        ),
        # The first of two replicas.
        (
            status(Ready="False Loading", Available="False NoReadyReplica"),
            status(progress="loading 1 %", Ready="False Loading", Available="True Serving"),
            ("Serving", "Normal", "Available says so."),
        ),
        # Ready tells it when the last pod is gone.
        (status(Ready="False RollingOut", Available="True Serving"), status(Ready="False RollingOut", Available="False Suspended"), None),
        (
            status(Ready="False RollingOut", Available="False NoReadyReplica"),
            status(Ready="False RollingOut", Available="False ScaledToZero"),
            None,
        ),
        # Behind an earlier cause, or on the way to the next word.
        (status(Ready="False Pending", Scheduled="Unknown Pending"), status(Ready="False Pending", Scheduled="True Placed"), None),
        (
            status("NodeLost", Ready="False NodeLost", ModelLoaded="False Loading"),
            status("NodeLost", Ready="False NodeLost", ModelLoaded="False WarmingUp"),
            None,
        ),
        (status(progress="loading 1 %", Ready="False Loading"), status(progress="loading 2 %", Ready="False Loading"), None),
    ],
)
def test_what_is_new_is_told_once(before: dict[str, Any], after: dict[str, Any], event: tuple[str, str, str] | None):
    assert told(before, after) == event
    assert told(after, after) is None


def test_a_transition_has_one_name_and_the_next_another():
    mdep = resource(status(Ready="False Pending"), **SMALL)
    names = [
        (events.transition(mdep, after, instance, datetime(2026, 1, 1, tzinfo=UTC)) or {})["metadata"]["name"]
        for instance, after in (
            ("one", status(Ready="False Loading")),
            ("two", status(Ready="False Loading")),
            ("two", status(Ready="True Ready")),
        )
    ]
    assert names[0] == names[1] != names[2]
