"""Which resources a HorizontalPodAutoscaler scales (KEDA makes one too): there the load that we see decides nothing.

They are listed, and only while some resource has `spec.autoscaling`. Who wrote spec.replicas last cannot be read from the resource: the
server keeps no record of it where nobody had set the field before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from jitney_operator.api import GROUP, KIND, Json, Key
from jitney_operator.cluster import Cluster
from jitney_operator.errors import ClusterError
from jitney_operator.store import Store
from jitney_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

PERIOD = 10.0
# Without the right to list them there are none for us.
FORBIDDEN = 403


class Autoscalers:
    """Main loop only. A change queues the resource. `known` once a listing has told: before, nobody's replicas may be decided."""

    def __init__(self, store: Store, queue: WorkQueue, cluster: Cluster, namespaces: tuple[str, ...], leading: Callable[[], bool]) -> None:
        self._store, self._queue, self._cluster, self._namespaces, self._leading = store, queue, cluster, namespaces, leading
        self._targets: set[Key] = set()
        self.known = False
        self._listed = self._tried = float("-inf")
        self._one_at_a_time = asyncio.Lock()

    def scales(self, key: Key) -> bool:
        """As of the last listing."""
        return key in self._targets

    async def fresh(self) -> None:
        """Before a decision: what is known is not much older than PERIOD, or somebody is asking. No worker waits for another's question."""
        now = asyncio.get_running_loop().time()
        if self._one_at_a_time.locked() or now - max(self._listed, self._tried) < PERIOD * (1.5 if self.known else 0.2):
            return
        await self._ask()

    async def _ask(self) -> None:
        async with self._one_at_a_time:
            self._tried = asyncio.get_running_loop().time()
            await self._list()

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(PERIOD)
            if self._leading() and any(mdep.spec.autoscaling for mdep in self._store.model_deployments()):
                await self._ask()

    async def _list(self) -> None:
        try:
            found = {key for item in await self._cluster.autoscalers(self._namespaces) if (key := target(item))}
        except ClusterError as error:
            logger.warning("HorizontalPodAutoscalers cannot be listed: %s", error)
            if error.status != FORBIDDEN:
                # What was known holds, and is asked for again with the next look.
                return
            found = set()
        changed, self._targets = found ^ self._targets, found
        if not self.known:
            # They have waited for this.
            changed |= {mdep.key for mdep in self._store.model_deployments() if mdep.spec.autoscaling}
        self.known, self._listed = True, asyncio.get_running_loop().time()
        for key in changed:
            self._queue.add(key)


def target(item: Json) -> Key | None:
    """The resource that it scales, if that is one of ours."""
    reference = item.get("spec", {}).get("scaleTargetRef", {})
    ours = reference.get("kind") == KIND and str(reference.get("apiVersion", "")).partition("/")[0] == GROUP
    return Key(item["metadata"]["namespace"], reference["name"]) if ours else None
