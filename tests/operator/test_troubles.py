"""What Events tell of pods that are not made: when it is asked, and what is taken from it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jitney_operator.api import LABEL, Json, Key
from jitney_operator.errors import ClusterError
from jitney_operator.observed import Pod, Trouble
from jitney_operator.store import Store
from jitney_operator.troubles import CONCURRENT, PATIENCE, Troubles, _by_pod, newest
from jitney_operator.workqueue import WorkQueue

CAUSE = 'MountVolume.SetUp failed for volume "w" : mount failed: exit status 32'
SUMMARY = "Unable to attach or mount volumes: unmounted volumes=[w], unattached volumes=[], failed to process volumes=[]: timed out"


def event(message: str, reason: str = "FailedMount", uid: str = "p1", at: str = "2026-01-01T00:00:00Z") -> Json:
    return {"metadata": {}, "involvedObject": {"uid": uid}, "reason": reason, "message": message, "lastTimestamp": at}


@pytest.mark.parametrize(
    ("events", "found"),
    [
        ([], None),
        ([event(CAUSE, uid="other")], None),
        ([event("Back-off restarting", "BackOff")], None),
        ([event(CAUSE)], Trouble("FailedMount", CAUSE)),
        ([event(CAUSE), event(SUMMARY, at="2026-01-01T00:02:00Z")], Trouble("FailedMount", CAUSE)),
        ([event(SUMMARY)], Trouble("FailedMount", SUMMARY)),
        ([event(CAUSE), event("Held", "FailedAttachVolume", at="2026-01-01T00:02:00Z")], Trouble("FailedAttachVolume", "Held")),
    ],
)  # fmt: skip
def test_the_last_cause_is_told(events: list[Json], found: Trouble | None):
    assert newest(_by_pod(events).get("p1", ())) == found


class Events:
    """A cluster that has these Events, and counts the questions."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.now = self.most = 0
        self.there: list[Json] = []
        self.broken = False

    async def warnings(self, namespace: str) -> list[Json]:
        self.asked.append(namespace)
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        if self.broken:
            raise ClusterError(500, "no")
        return self.there


def pod(name: str, reason: str | None, namespace: str = "team", version: int = 1) -> Json:
    metadata = {"name": name, "namespace": namespace, "uid": name, "resourceVersion": str(version), "labels": {LABEL: "chat"}}
    state: dict[str, Any] = {"waiting": {"reason": reason}} if reason else {"running": {}}
    status = {"containerStatuses": [{"name": "runtime", "state": state}]}
    return {"kind": "Pod", "metadata": metadata, "spec": {"nodeName": "n"}, "status": status}


async def rounds(troubles: Troubles, count: int) -> None:
    for _ in range(count):
        await troubles._round()


def made() -> tuple[Store, WorkQueue, Events, Troubles]:
    store, queue, events = Store(), WorkQueue(), Events()
    return store, queue, events, Troubles(store, queue, events, lambda: True)  # type: ignore[arg-type]


async def test_only_who_waits_long_is_asked_about_also_when_something_is_known():
    store, queue, events, troubles = made()
    store.put(pod("p1", "ContainerCreating"))
    store.put(pod("p2", None))
    await rounds(troubles, PATIENCE)
    assert not events.asked
    await rounds(troubles, PATIENCE + 2)
    assert len(events.asked) == 2
    events.there = [event(CAUSE)]
    await rounds(troubles, PATIENCE + 1)
    key = Key("team", "chat")
    assert troubles.of(key) == {"p1": Trouble("FailedMount", CAUSE)}
    assert await asyncio.wait_for(queue.take(), 1) == key
    asked = len(events.asked)
    events.there = [event("Held", "FailedAttachVolume", at="2026-01-01T00:09:00Z")]
    await rounds(troubles, PATIENCE)
    assert len(events.asked) == asked, "not in each round"
    queue.done(key)
    await rounds(troubles, 1)
    assert troubles.of(key) == {"p1": Trouble("FailedAttachVolume", "Held")}
    assert await asyncio.wait_for(queue.take(), 1) == key
    store.put(pod("p1", None, version=2))
    await rounds(troubles, 1)
    assert not troubles.of(key)


async def test_however_many_namespaces_wait_none_waits_for_another_and_only_some_are_asked_at_once():
    store, _, events, troubles = made()
    for number in range(60):
        store.put(pod(f"p{number}", "ContainerCreating", f"n{number}"))
        store.put(pod(f"q{number}", "ContainerCreating", f"n{number}"))
    await rounds(troubles, PATIENCE + 1)
    assert len(events.asked) == len(set(events.asked)) == 60, "one question for all pods of a namespace"
    assert events.most == CONCURRENT
    await rounds(troubles, PATIENCE)
    assert len(events.asked) == 60


async def test_a_server_that_refuses_ends_nothing():
    store, _, events, troubles = made()
    store.put(pod("p1", "ContainerCreating"))
    events.broken = True
    await rounds(troubles, 4 * (PATIENCE + 1))
    assert len(events.asked) == 4


def test_who_waits_for_an_image_only_is_not_stuck():
    """A mount that failed for a while must not be told of a pull that takes minutes."""
    body = pod("p1", "ContainerCreating")
    assert Pod(body).stuck
    body["status"]["conditions"] = [{"type": "PodReadyToStartContainers", "status": "True"}]
    assert not Pod(body).stuck
    assert Pod(body).being_made
