"""Fills the store before anybody reads it: a resource seen before its children would look as if it had none."""

from __future__ import annotations

import asyncio
import logging

from jitney_operator.api import KIND
from jitney_operator.cluster import WATCHED, Cluster
from jitney_operator.errors import ClusterError
from jitney_operator.store import Store

logger = logging.getLogger(__name__)


class Warmup:
    """`done` is set while the store may be believed; again() empties it, after the watches were lost."""

    def __init__(self, store: Store, cluster: Cluster, namespaces: tuple[str, ...]) -> None:
        self.done = asyncio.Event()
        self._cold = asyncio.Event()
        self._cold.set()
        self._store, self._cluster, self._namespaces = store, cluster, namespaces

    def again(self) -> None:
        self._store.clear()
        self.done.clear()
        self._cold.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._cold.wait()
            self._cold.clear()
            try:
                for kind in WATCHED.keys() - {KIND}:
                    for listing in await self._cluster.list(kind, self._namespaces):
                        for body in listing.items:
                            self._store.put(body)
                if not self._cold.is_set():
                    # Emptied meanwhile, it lacks what was listed before.
                    self.done.set()
            except ClusterError as error:
                logger.warning("the children cannot be listed: %s", error)
                self._cold.set()
                await asyncio.sleep(1)
