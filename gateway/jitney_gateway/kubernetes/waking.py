"""Wakes a model that was scaled to zero: one replica, by the scale subresource, as `kubectl scale` does it. Where its load decides, the
operator wakes it, and an annotation says that requests wait."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from jitney_gateway.errors import GatewayError
from jitney_gateway.kubernetes import manifest
from jitney_gateway.kubernetes.cluster import AGENT, Cluster
from jitney_gateway.kubernetes.endpoints import Key
from jitney_gateway.kubernetes.models import Models, key_of
from jitney_gateway.model import Json

logger = logging.getLogger(__name__)

# The status of a resource that changes is written often, and each write moves its version.
ATTEMPTS = 5
# Seconds between two calls for one model, however many requests wait for it: the operator needs one, or another where it was not there to
# hear it. Less than the seconds after which one of them asks again.
AGAIN = 3.0


class Waking:
    """However many requests come for one model, it is asked for once."""

    def __init__(self, cluster: Cluster, models: Models) -> None:
        self._cluster, self._models = cluster, models
        self._under_way: dict[Key, asyncio.Task[None]] = {}
        self._called: dict[Key, float] = {}

    async def wake(self, body: Json) -> None:
        """Return once the cluster knows. GatewayError (503) where it does not take it."""
        key = key_of(body)
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
        await (self._call(body) if "autoscaling" in body["spec"] else self._scale(body))

    async def _call(self, body: Json) -> None:
        """GatewayError (503) where the cluster does not take it."""
        key, now = key_of(body), asyncio.get_running_loop().time()
        self._called = {other: at for other, at in self._called.items() if at > now - AGAIN}
        if key in self._called:
            return
        change = {"metadata": {"annotations": {manifest.WANTED: datetime.now(UTC).isoformat()}}}
        path = f"{manifest.path(body)}?fieldManager={AGENT}"
        self._models.put(self._checked(body, *await self._cluster.request("PATCH", path, change, "application/merge-patch+json")))
        self._called[key] = now
        logger.info("%s/%s: a replica is called for", *key)

    async def _scale(self, body: Json) -> None:
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
