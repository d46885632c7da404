"""More or fewer replicas of a model, by the scale subresource, as `kubectl scale` does it."""

from __future__ import annotations

import logging

from jitney_gateway.errors import GatewayError
from jitney_gateway.kubernetes import manifest
from jitney_gateway.kubernetes.cluster import AGENT, Cluster
from jitney_gateway.kubernetes.models import Models
from jitney_gateway.model import Json

logger = logging.getLogger(__name__)

# The status of a resource that changes is written often, and each write moves its version.
ATTEMPTS = 10


class Scaling:
    def __init__(self, cluster: Cluster, models: Models) -> None:
        self._cluster, self._models = cluster, models

    async def change(self, body: Json, by: int) -> int:
        """How many were asked for before. Two callers at once count both. GatewayError (400) where the number is not ours to set."""
        if "autoscaling" in body["spec"]:
            words = "its number of replicas follows spec.autoscaling: change minReplicas and maxReplicas there"
            raise GatewayError(400, f"{body['metadata']['name']}: {words}", code="autoscaled")
        path = f"{manifest.path(body)}/scale"
        for _ in range(ATTEMPTS):
            scale = _checked(*await self._cluster.request("GET", path))
            before = int(scale["spec"].get("replicas", 0))
            if before + by < 0:
                raise GatewayError(400, f"{body['metadata']['name']} has no replica that could be ended", code="replica_not_found")
            change = {"metadata": {"resourceVersion": scale["metadata"]["resourceVersion"]}, "spec": {"replicas": before + by}}
            status, answer = await self._cluster.request("PATCH", f"{path}?fieldManager={AGENT}", change, "application/merge-patch+json")
            if status == 409:
                continue
            scale = _checked(status, answer)
            logger.info("%s/%s: %d replicas, which were %d", body["metadata"]["namespace"], body["metadata"]["name"], before + by, before)
            # As in `Waking`: a request must not find it asleep, or awake, because the watch is late.
            metadata = {**body["metadata"], "resourceVersion": scale["metadata"]["resourceVersion"]}
            self._models.put({**body, "metadata": metadata, "spec": {**body["spec"], "replicas": before + by}})
            return before
        raise GatewayError(503, f"{body['metadata']['name']}: others change it all the time", code="busy", retry_after=1)


def _checked(status: int, answer: Json) -> Json:
    if status >= 400:
        raise manifest.refused(status, str(answer.get("message", "")))
    return answer
