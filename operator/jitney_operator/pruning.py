"""Now and then, and after each new listing of a watch: forget what vanished unseen, fetch what changed unheard, look at everything.

A watch that lists anew tells what is there and never what is gone, and one that lives may lose an event. One metadata listing per kind and
page, one read for each object that is behind, no writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from jitney_operator.api import Json
from jitney_operator.cluster import WATCHED, Cluster
from jitney_operator.errors import ClusterError
from jitney_operator.store import Store
from jitney_operator.workqueue import Priority, WorkQueue

logger = logging.getLogger(__name__)

PERIOD = 600.0
# After a watch listed anew: others do so at the same moment, and one round is enough for all of them.
GATHER = 2.0


class Pruning:
    """Main loop only."""

    def __init__(self, store: Store, queue: WorkQueue, cluster: Cluster, namespaces: tuple[str, ...]) -> None:
        self._store, self._queue, self._cluster, self._namespaces = store, queue, cluster, namespaces
        self._soon = asyncio.Event()

    def soon(self) -> None:
        """A watch had to list anew."""
        self._soon.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._soon.wait(), PERIOD * random.uniform(0.9, 1.1))
                await asyncio.sleep(GATHER)
            self._soon.clear()
            await self._round()

    async def _round(self) -> None:
        try:
            for kind in WATCHED:
                for listing in await self._cluster.list(kind, self._namespaces, metadata_only=True):
                    for key in self._store.prune(listing):
                        logger.info("%s: a %s was gone and nobody had said so", key, kind)
                        self._queue.add(key)
                    if self._store.behind(listing):
                        # Most are on their way: the listing and the watch are two connections.
                        await asyncio.sleep(GATHER)
                        await self._fetch(self._store.behind(listing))
        except ClusterError as error:
            # The next round comes; what is listed so far has been used.
            logger.warning("the store cannot be compared with the server: %s", error)
        for key in self._store.all_keys():
            self._queue.add(key, Priority.RESYNC)

    async def _fetch(self, lost: list[Json]) -> None:
        for item in lost:
            body = await self._cluster.read(item)
            key = self._store.put(body) if body else None
            if key:
                logger.info("%s: a %s had changed and nobody had said so", key, item["kind"])
                self._queue.add(key)
