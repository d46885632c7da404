"""What the cluster holds, as last seen: models and their pods together, kept by watches, so that no request asks the API server."""

from __future__ import annotations

import asyncio
import contextlib

from jitney_gateway.bell import Bell
from jitney_gateway.destination import Destination
from jitney_gateway.kubernetes import manifest
from jitney_gateway.kubernetes.cluster import Cluster
from jitney_gateway.kubernetes.endpoints import Endpoints, Pod
from jitney_gateway.kubernetes.models import Models, key_of, served
from jitney_gateway.kubernetes.watching import Watching
from jitney_gateway.model import Json

SLICES = "/apis/discovery.k8s.io/v1"


class Sight:
    """`bell` rings when something has changed."""

    def __init__(self, cluster: Cluster, home: str, namespaces: tuple[str, ...] | None) -> None:
        self.bell = Bell()
        self.models, self._endpoints = Models(home, self._on_change), Endpoints(self._on_change)
        self._destinations: dict[str, Destination] = {}
        self._watchings = [
            watching
            for namespace in namespaces or (None,)
            for watching in (
                Watching(cluster, manifest.API, manifest.PLURAL, namespace, {}, self.models),
                Watching(cluster, SLICES, "endpointslices", namespace, {"labelSelector": manifest.LABEL}, self._endpoints),
            )
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        self._tasks = [asyncio.create_task(watching.run(), name="watching") for watching in self._watchings]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def complete(self) -> bool:
        """Everything was listed once."""
        return all(watching.known.is_set() for watching in self._watchings)

    async def completed(self, seconds: float) -> None:
        """TimeoutError where it does not come about."""
        async with asyncio.timeout(seconds):
            for watching in self._watchings:
                await watching.known.wait()

    def pods(self, body: Json) -> tuple[Pod, ...]:
        return self._endpoints.of(key_of(body))

    def destination(self, uid: str) -> Destination | None:
        found = self._destinations.get(uid)
        if found is None and (body := self.models.names.find(uid)):
            addresses = tuple(pod.address for pod in self.pods(body) if pod.ready)
            prospect, message = manifest.without_pods(body)
            found = Destination(self.models.names.uid_of(body), served(body), addresses, prospect, message)
            self._destinations[uid] = found
        return found

    def _on_change(self) -> None:
        self._destinations.clear()
        self.bell.ring()
