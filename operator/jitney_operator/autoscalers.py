"""Which resources somebody else scales: there the load that we see decides nothing.

That is a HorizontalPodAutoscaler, or a ScaledObject of KEDA. KEDA makes an HPA for each of these and takes it away while the ScaledObject
is paused, and the replicas are still KEDA's: so both kinds are watched. Who wrote spec.replicas last cannot be read from the resource: the
server keeps no record of it where nobody had set the field before. While a kind cannot be watched, nobody's replicas are decided.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from jitney_operator.api import Key
from jitney_operator.cluster import Cluster
from jitney_operator.store import Store
from jitney_operator.targets import Watch
from jitney_operator.workqueue import WorkQueue

KINDS = (("/apis/autoscaling/v2", "horizontalpodautoscalers"), ("/apis/keda.sh/v1alpha1", "scaledobjects"))
# Seconds that a decision gives the first answers, so that it need not be corrected; and between two looks at whether we lead.
MOMENT, PERIOD = 2.0, 0.5


class Autoscalers:
    """Main loop only. A change queues the resource."""

    def __init__(self, store: Store, queue: WorkQueue, cluster: Cluster, namespaces: tuple[str, ...], leading: Callable[[], bool]) -> None:
        self._store, self._queue, self._leading = store, queue, leading
        self._watches = [
            Watch(cluster, group, plural, namespace, self._look_at, self._look_around)
            for group, plural in KINDS
            for namespace in namespaces or (None,)
        ]

    def scales(self, key: Key) -> bool:
        """As last seen, which stays while nothing newer can be seen."""
        return any(key in watch.targets for watch in self._watches)

    def doubt(self, key: Key) -> str:
        """Why it cannot be told who scales this one, in a sentence; empty where it is known. In doubt nothing may be decided."""
        return next((watch.doubt for watch in self._watches if watch.doubt and watch.covers(key)), "")

    async def fresh(self) -> None:
        """Before a decision, which must not wait long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MOMENT):
                for watch in self._watches:
                    await watch.answered.wait()

    async def run(self) -> None:
        """For ever; watches while this process leads."""
        async with asyncio.TaskGroup() as group:
            for watch in self._watches:
                group.create_task(self._keep(watch))

    async def _keep(self, watch: Watch) -> None:
        while True:
            if self._leading():
                await watch.follow()
            else:
                watch.answered.clear()
                await asyncio.sleep(PERIOD)

    def _look_at(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._queue.add(key)

    def _look_around(self, watch: Watch) -> None:
        """They have waited for this, or must wait from now on."""
        self._look_at(mdep.key for mdep in self._store.model_deployments() if mdep.spec.autoscaling and watch.covers(mdep.key))
