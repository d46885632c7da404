"""Wakes a model that was scaled to zero: one replica, by the scale subresource, as `kubectl scale` does it."""

from __future__ import annotations

import asyncio
import logging

from jitney_gateway.errors import GatewayError
from jitney_gateway.kubernetes import manifest
from jitney_gateway.kubernetes.cluster import AGENT, Cluster
from jitney_gateway.kubernetes.endpoints import Key
from jitney_gateway.kubernetes.models import Models
from jitney_gateway.model import Json

logger = logging.getLogger(__name__)

# The status of a resource that changes is written often, and each write moves its version.
ATTEMPTS = 5


class Waking:
    """However many requests come for one model, it is asked for once."""

    def __init__(self, cluster: Cluster, models: Models) -> None:
        self._cluster, self._models = cluster, models
        self._under_way: dict[Key, asyncio.Task[None]] = {}

    async def wake(self, body: Json) -> None:
        """Return once the cluster knows. GatewayError (503) where it does not take it."""
        key = body["metadata"]["namespace"], body["metadata"]["name"]
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(self._wake(body), name=f"wake {'/'.join(key)}")
            task.add_done_callback(lambda done: self._over(key, done))
        # One caller that leaves must not take the others' wake with him.
        await asyncio.shield(task)

    def _over(self, key: Key, task: asyncio.Task[None]) -> None:
        del self._under_way[key]
        # Where every caller has left, nobody else takes note of it.
        if not task.cancelled() and (error := task.exception()):
            logger.warning("%s: %s", "/".join(key), error)

    async def _wake(self, body: Json) -> None:
        path = f"{manifest.path(body)}/scale"
        for _ in range(ATTEMPTS):
            scale = self._checked(body, *await self._cluster.request("GET", path))
            if scale["spec"].get("replicas", 0):
                return
            # With the version: whoever scales it at the same moment, to three or to zero again, is not overruled unseen.
            change = {"metadata": {"resourceVersion": scale["metadata"]["resourceVersion"]}, "spec": {"replicas": 1}}
            status, answer = await self._cluster.request("PATCH", f"{path}?fieldManager={AGENT}", change, "application/merge-patch+json")
            if status == 409:
                continue
            scale = self._checked(body, status, answer)
            logger.info("%s/%s: woken by a request", body["metadata"]["namespace"], body["metadata"]["name"])
            # The next request must not find it asleep because the watch is late.
            metadata = {**body["metadata"], "resourceVersion": scale["metadata"]["resourceVersion"]}
            self._models.put({**body, "metadata": metadata, "spec": {**body["spec"], "replicas": scale["spec"]["replicas"]}})
            return
        raise self._refusal(body, "others change it all the time")

    def _checked(self, body: Json, status: int, answer: Json) -> Json:
        if status >= 400:
            raise self._refusal(body, str(answer.get("message", "")))
        return answer

    def _refusal(self, body: Json, words: str) -> GatewayError:
        return GatewayError(
            503, f"{body['metadata']['name']} is scaled to zero and cannot be woken: {words}", code="not_woken", retry_after=5
        )
