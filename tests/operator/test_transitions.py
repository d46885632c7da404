"""When a condition's time moves: with its status, and with nothing else."""

from __future__ import annotations

from typing import Any

from jitney_operator import plan
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
