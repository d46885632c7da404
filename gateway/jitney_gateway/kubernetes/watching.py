"""Keeps a shelf like the cluster: lists, watches, and lists again whenever the watch has ended, however it did.

A watch is never taken up where it broke off. The listing that comes instead makes good what was lost, so that a 410, a torn line, a silent
connection and an API server that was away need no care of their own; and the server ends each watch after some minutes, so that what a
living watch did not tell is found too. One listing in five minutes and kind is what it costs.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Protocol

from jitney_gateway.errors import GatewayError
from jitney_gateway.kubernetes.cluster import Cluster
from jitney_gateway.model import Json

logger = logging.getLogger(__name__)

# How long one watch lives, in seconds.
LIFE = 300
# Seconds before the next listing; a watch of LASTING seconds was a good one. Slower each time, but never as slow as a person would be.
FIRST_PAUSE, LONGEST_PAUSE, LASTING = 0.5, 10.0, 30.0


class Shelf(Protocol):
    """What is kept of one kind."""

    def replace(self, namespace: str | None, items: list[Json], version: int) -> None:
        """All there is, in one namespace or in all (None), at the moment of `version`."""
        ...

    def put(self, body: Json) -> None: ...

    def drop(self, body: Json) -> None: ...


class Watching:
    """One kind, in one namespace or in all. `known` once it was listed; what was seen last is kept from then on, whatever happens."""

    def __init__(self, cluster: Cluster, group: str, plural: str, namespace: str | None, query: dict[str, str], shelf: Shelf) -> None:
        self._path = f"{group}/namespaces/{namespace}/{plural}" if namespace else f"{group}/{plural}"
        self._cluster, self._namespace, self._query, self._shelf = cluster, namespace, query, shelf
        self.known = asyncio.Event()

    async def run(self) -> None:
        """For ever."""
        pause, loop = FIRST_PAUSE, asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                await self._watch(await self._list())
            except GatewayError as error:
                logger.warning("%s: %s; listing it again", self._path, error)
            except Exception:
                # What the server sends is not in our hands, and one odd object must not end the sight of all.
                logger.exception("%s: unexpected; listing it again", self._path)
            pause = FIRST_PAUSE if loop.time() - begun > LASTING else pause
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))
            pause = min(LONGEST_PAUSE, pause * 2)

    async def _list(self) -> int:
        items, version = await self._cluster.list(self._path, self._query)
        self._shelf.replace(self._namespace, items, int(version))
        self.known.set()
        return int(version)

    async def _watch(self, version: int) -> None:
        query = {**self._query, "resourceVersion": str(version)}
        async for event in self._cluster.watch(self._path, query, random.randint(LIFE * 4 // 5, LIFE)):
            if event["type"] == "ERROR":
                raise GatewayError(503, f"the watch ended: {event['object'].get('message') or event['object'].get('reason')}")
            seen = int(event["object"]["metadata"]["resourceVersion"])
            # Told again, as something in between may do: an old event must not bring back what is gone.
            if event["type"] == "BOOKMARK" or seen <= version:
                continue
            version = seen
            if event["type"] == "DELETED":
                self._shelf.drop(event["object"])
            else:
                self._shelf.put(event["object"])
