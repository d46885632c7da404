"""How long a start that fails is waited for."""

from __future__ import annotations

import pytest

from jitney_gateway.failure import PATIENCE, PLACING_PATIENCE, Failure


def test_one_failure_is_waited_for_as_long_as_it_lasts_without_a_break():
    failure = Failure()
    assert not failure.lasting("CrashLoop: x", 0)
    assert not failure.lasting("CrashLoop: y", PATIENCE)
    assert not failure.lasting("", PATIENCE + 1)
    assert not failure.lasting("CrashLoop: x", PATIENCE + 2)
    assert not failure.lasting("CrashLoop: x", 2 * PATIENCE + 2)
    assert failure.lasting("CrashLoop: z", 2 * PATIENCE + 3).startswith("CrashLoop: z (")


@pytest.mark.parametrize("reason", ["Unschedulable", "InsufficientGPU", "InsufficientMemory"])
def test_a_node_may_take_minutes_to_come(reason: str):
    failure = Failure()
    for now in (0.0, PLACING_PATIENCE):
        assert not failure.lasting(f"{reason}: 0/3 nodes", now)
    # The pod has its node, and now its own time.
    for now in (PLACING_PATIENCE + 1, PLACING_PATIENCE + 1 + PATIENCE):
        assert not failure.lasting("ImagePullError: x", now)
    assert failure.lasting("ImagePullError: x", PLACING_PATIENCE + 2 + PATIENCE)


def test_nodes_that_never_come_are_told():
    failure = Failure()
    assert not failure.lasting("InsufficientGPU: 0/3 nodes", 1)
    assert failure.lasting("InsufficientGPU: 0/4 nodes", 2 + PLACING_PATIENCE).startswith("InsufficientGPU: 0/4 nodes (")
