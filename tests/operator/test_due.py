"""When a status is written: at once, unless it tells nothing that cannot wait for what comes next."""

from __future__ import annotations

from typing import Any

import pytest

from jitney_operator.reconcile import COUNTERS_PACE, PROGRESS_PACE, due_after

BEFORE = {
    "reason": "Loading",
    "ready": "0/1",
    "replicas": 0,
    "updatedReplicas": 0,
    "progress": "loading 10 %",
    "conditions": [{"type": "Ready"}],
}


@pytest.mark.parametrize(
    ("change", "seconds"),
    [
        ({"progress": "loading 20 %"}, PROGRESS_PACE),
        ({"progress": None}, PROGRESS_PACE),
        ({"replicas": 1}, COUNTERS_PACE),
        ({"replicas": 1, "updatedReplicas": 1, "progress": "loading 20 %"}, COUNTERS_PACE),
        ({"replicas": 1, "reason": "WarmingUp"}, 0),
        ({"readyReplicas": 1}, 0),
        ({"conditions": []}, 0),
        ({"lastFailure": {"reason": "CrashLoop"}}, 0),
        ({"ready": None}, 0),
    ],
)
def test_what_is_due_when(change: dict[str, Any], seconds: float) -> None:
    after = {name: value for name, value in (BEFORE | change).items() if value is not None}
    assert due_after(BEFORE, after) == seconds
