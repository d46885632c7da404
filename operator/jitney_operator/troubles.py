"""Asks the cluster why a pod's containers are not made: a volume that cannot be mounted is told in Events and nowhere else.

Only of pods that have waited a while, one listing for each of their namespaces: Events are many, and the watches do not carry them. A
namespace is asked at most once in PATIENCE + 1 rounds, and CONCURRENT at once, so a slow server is asked less.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from jitney_operator.api import Json, Key
from jitney_operator.cluster import Cluster
from jitney_operator.errors import ClusterError
from jitney_operator.observed import Pod, Trouble
from jitney_operator.store import Store
from jitney_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

PERIOD = 1.0
# Rounds that a pod may take to be made before anybody is asked; most never need it. After as many its namespace is asked again, also where
# something is known: something else may be in the way now.
PATIENCE = 2
# Namespaces asked at the same moment, however many wait.
CONCURRENT = 8
TOLD = ("FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox")
# The kubelet's summary of others, which name the cause.
SUMMARY = "Unable to attach or mount volumes"


class Troubles:
    """Main loop only. `of` is what the newest round heard; a change queues the resource. What was told of a pod stays while it waits."""

    def __init__(self, store: Store, queue: WorkQueue, cluster: Cluster, leading: Callable[[], bool]) -> None:
        self._store, self._queue, self._cluster, self._leading = store, queue, cluster, leading
        self._told: dict[Key, dict[str, Trouble]] = {}
        self._waited: dict[str, int] = {}
        self._turns = asyncio.Semaphore(CONCURRENT)

    def of(self, key: Key) -> Mapping[str, Trouble]:
        """By the pod's uid."""
        return self._told.get(key, {})

    async def run(self) -> None:
        """For ever."""
        while True:
            if self._leading():
                await self._round()
            await asyncio.sleep(PERIOD)

    async def _round(self) -> None:
        stuck = self._store.stuck()
        there = {pod.uid for pods in stuck.values() for pod in pods}
        self._waited = {uid: self._waited.get(uid, 0) + 1 for uid in there}
        self._told = {key: kept for key, told in self._told.items() if (kept := {uid: told[uid] for uid in told if uid in there})}
        by_namespace: dict[str, dict[Key, list[Pod]]] = {}
        for key, pods in stuck.items():
            by_namespace.setdefault(key.namespace, {})[key] = pods
        await asyncio.gather(*(self._ask(name, pods) for name, pods in by_namespace.items() if self._is_due(pods)))

    def _is_due(self, stuck: Mapping[Key, list[Pod]]) -> bool:
        return any(self._waited[pod.uid] > PATIENCE for pods in stuck.values() for pod in pods)

    async def _ask(self, namespace: str, stuck: Mapping[Key, list[Pod]]) -> None:
        # The next question is due when they have waited as long again.
        self._waited |= {pod.uid: 0 for pods in stuck.values() for pod in pods}
        try:
            async with self._turns:
                told = _by_pod(await self._cluster.warnings(namespace))
        except ClusterError as error:
            logger.warning("%s: its Events cannot be listed: %s", namespace, error)
            return
        for key, pods in stuck.items():
            found = {pod.uid: trouble for pod in pods if (trouble := newest(told.get(pod.uid, ())))}
            if found.items() - self.of(key).items():
                self._told.setdefault(key, {}).update(found)
                self._queue.add(key)


def _by_pod(events: Iterable[Json]) -> dict[str, list[Json]]:
    """By the pod's uid: a namespace may have a thousand pods that wait, and many more Events."""
    found: dict[str, list[Json]] = {}
    for event in events:
        found.setdefault(event.get("involvedObject", {}).get("uid", ""), []).append(event)
    return found


def newest(events: Iterable[Json]) -> Trouble | None:
    """What the Events (core/v1) of one pod tell: the last one that names a cause."""
    causes = [event for event in events if event.get("reason") in TOLD]
    if not causes:
        return None
    last = max(causes, key=lambda event: (not event.get("message", "").startswith(SUMMARY), _moment(event)))
    return Trouble(last["reason"], " ".join(last.get("message", "").split()))


def _moment(event: Json) -> str:
    return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp", ""))
