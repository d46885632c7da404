"""What becomes of a key whose look failed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jitney_operator.api import Key
from jitney_operator.errors import ClusterError, NotLeading
from jitney_operator.reconcile import Reconciler
from jitney_operator.workqueue import WorkQueue

KEY = Key("team", "chat")


@pytest.mark.parametrize("error", [NotLeading(), ClusterError(500, "no"), ClusterError(409, "again"), ValueError("a defect")])
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
