"""What becomes of a key whose look failed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jitney_operator.api import Key
from jitney_operator.errors import ClusterError, NotLeading, StoreLost
from jitney_operator.metrics import Metrics
from jitney_operator.reconcile import REFUSED_PACE, Reconciler
from jitney_operator.store import Store
from jitney_operator.workqueue import WorkQueue

KEY = Key("team", "chat")


@pytest.mark.parametrize("error", [NotLeading(), StoreLost(), ClusterError(500, "no"), ClusterError(409, "again"), ValueError("a defect")])
async def test_a_look_that_failed_is_done_again(error: Exception, monkeypatch: pytest.MonkeyPatch):
    """A lapse of the lease too: the one who leads next may be us."""
    queue, nothing = WorkQueue(), [None] * 7
    looks = Reconciler(None, queue, *nothing)  # type: ignore[arg-type]

    async def fail(_: Key) -> Any:
        raise error

    monkeypatch.setattr(looks, "reconcile", fail)
    queue.add(KEY)
    taken = await queue.take()
    await looks._attempt(taken)
    queue.done(taken)
    assert await asyncio.wait_for(queue.take(), 5) == KEY


async def test_what_the_cluster_refuses_is_tried_again_soon_enough_for_a_status_that_is_true():
    """Nobody tells when a name has become free; the status may lag 5 seconds."""
    queue = WorkQueue()
    pauses = [queue.retry(KEY, 1.0, REFUSED_PACE) for _ in range(20)]
    assert (min(pauses), max(pauses)) == (1.0, pauses[-1])
    assert 2 <= pauses[-1] < 5


def test_a_transition_whose_status_had_to_be_tried_again_is_told_once():
    looks = Reconciler(None, WorkQueue(), *[None] * 7)  # type: ignore[arg-type]
    for name in ("chat.1", "chat.1", "chat.2", "chat.1"):
        looks._will_tell(KEY, {"metadata": {"name": name}})
    assert [event["metadata"]["name"] for event in looks._untold[KEY]] == ["chat.1", "chat.2"]


async def test_a_store_that_was_lost_during_a_look_says_nothing_of_the_cluster():
    """Nothing is applied and nothing reported of what it lacks; the look is done again."""
    store, queue, warm = Store(), WorkQueue(), asyncio.Event()
    metadata = {"name": "chat", "namespace": "team", "uid": "u1", "resourceVersion": "1", "generation": 1}
    store.put({"kind": "ModelDeployment", "metadata": metadata, "spec": {"model": "x/y"}})

    class Observing:
        async def prepare(self, _: object) -> None:
            store.clear()
            warm.clear()

    looks = Reconciler(store, queue, None, None, Observing(), None, None, Metrics(), warm)  # type: ignore[arg-type]
    warm.set()
    queue.add(KEY)
    taken = await queue.take()
    await looks._attempt(taken)
    queue.done(taken)
    assert await asyncio.wait_for(queue.take(), 5) == KEY
