"""What is held of the objects that are watched, and what is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from jitney_operator.api import KIND, LABEL, Json, Key
from jitney_operator.observed import Listing
from jitney_operator.store import Store
from jitney_operator.warmup import Warmup

CHAT = Key("team", "chat")


def deployment(version: int, uid: str = "d1") -> Json:
    metadata = {"name": "chat", "namespace": "team", "uid": uid, "resourceVersion": str(version), "labels": {LABEL: "chat"}}
    return {"kind": "Deployment", "metadata": metadata}


def resource(version: int, uid: str = "u1") -> Json:
    metadata = {"name": "chat", "namespace": "team", "uid": uid, "resourceVersion": str(version)}
    return {"kind": KIND, "metadata": metadata, "spec": {"model": "x/y"}}


@pytest.mark.parametrize(
    ("body", "taken"),
    [(deployment(6), True), (deployment(5), False), (deployment(4), False), (deployment(4, "d0"), False), (deployment(6, "d2"), True)],
    ids=["newer", "the same", "older", "older, of one that had the name before", "newer, of one that has the name now"],
)
def test_only_what_is_newer_takes_a_name(body: Json, taken: bool):
    store = Store()
    assert store.put(deployment(5)) == CHAT
    assert (store.put(body) is not None) == taken
    held = store.find("Deployment", CHAT, "chat") or {}
    assert held["metadata"] == (body if taken else deployment(5))["metadata"]


def test_what_is_gone_leaves_nothing_behind_and_does_not_come_back():
    store = Store()
    for body in (resource(5), deployment(5)):
        store.put(body)
    assert store.all_keys() == [CHAT]
    assert [mdep.uid for mdep in store.model_deployments()] == ["u1"]
    assert store.put(resource(6, "u2")) == CHAT
    assert [mdep.uid for mdep in store.model_deployments()] == ["u2"]
    assert store.bury(resource(7, "u2")) == CHAT
    assert store.model_deployments() == []
    assert store.put(resource(6, "u2")) is None
    assert store.prune(Listing("Deployment", None, 7, ())) == {CHAT}
    assert store.all_keys() == []
    assert not any(store._objects.values()), "for each name that there ever was"


def test_what_is_newer_than_a_listing_is_not_pruned_by_it():
    store = Store()
    store.put(deployment(8))
    assert store.prune(Listing("Deployment", "team", 7, ())) == set()
    assert store.prune(Listing("Deployment", "other", 9, ())) == set()
    assert store.find("Deployment", CHAT, "chat")


class Slow:
    """A cluster whose listings end when they are let."""

    def __init__(self) -> None:
        self.go = asyncio.Semaphore(0)

    async def list(self, kind: str, _: object) -> list[Listing]:
        await self.go.acquire()
        return [Listing(kind, None, 1, (deployment(1),) if kind == "Deployment" else ())]


async def test_a_store_that_is_emptied_while_it_is_filled_is_not_believed():
    """The listings that came before would be missing: a Deployment that is there would look as if it were not."""
    store, cluster = Store(), Slow()
    warmup = Warmup(store, cluster, ())  # type: ignore[arg-type]
    task = asyncio.create_task(warmup.run())
    for _ in range(3):
        cluster.go.release()
    await asyncio.sleep(0.01)
    warmup.again()
    cluster.go.release()
    await asyncio.sleep(0.01)
    assert not warmup.done.is_set()
    for _ in range(4):
        cluster.go.release()
    await asyncio.wait_for(warmup.done.wait(), 5)
    assert store.find("Deployment", CHAT, "chat")
    task.cancel()
