"""What the cluster holds for one ModelDeployment, read from the store's dicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from jitney_operator.api import CONTAINER, TEMPLATE, Json

# The kubelet may tell the end of a container after the beginning of the next one. No model is ready that soon.
_TOLD_LATE = timedelta(seconds=5)


@dataclass(frozen=True)
class Pod:
    """One pod, with the questions the conditions ask."""

    body: Json

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def uid(self) -> str:
        return str(self.body["metadata"]["uid"])

    @property
    def template(self) -> str | None:
        found: str | None = self.body["metadata"].get("annotations", {}).get(TEMPLATE)
        return found

    @property
    def leaving(self) -> bool:
        return "deletionTimestamp" in self.body["metadata"]

    @property
    def placed(self) -> bool:
        return bool(self.body.get("spec", {}).get("nodeName"))

    @property
    def address(self) -> str | None:
        found: str | None = self.body.get("status", {}).get("podIP")
        return found

    @property
    def ready(self) -> bool:
        return not self.leaving and self.condition("Ready").get("status") == "True"

    @property
    def over(self) -> bool:
        """Evicted or ended for good: another pod takes its place."""
        return self.body.get("status", {}).get("phase") in ("Failed", "Succeeded")

    @property
    def created(self) -> str:
        return str(self.body["metadata"].get("creationTimestamp", ""))

    @property
    def moved(self) -> str:
        """When something about it changed for the last time: it got a node, its sandbox, another process, became ready or no longer is."""
        conditions = self.body.get("status", {}).get("conditions", [])
        began = self.container.get("state", {}).get("running", {}).get("startedAt")
        return max(self.created, began or "", *(entry.get("lastTransitionTime") or "" for entry in conditions))

    @property
    def failed_at(self) -> str:
        """When the node gave it up: Kubernetes notes the cause, or the end of its container; empty where neither is there."""
        noted = self.condition("DisruptionTarget").get("lastTransitionTime")
        ended = self.container.get("state", {}).get("terminated", {}).get("finishedAt")
        return str(noted or ended or self.body.get("status", {}).get("startTime") or "")

    @property
    def spec_of_container(self) -> Json:
        containers: list[Json] = self.body.get("spec", {}).get("containers", [])
        return next((container for container in containers if container.get("name") == CONTAINER), {})

    @property
    def devices(self) -> frozenset[str]:
        """Names of the extended resources that it holds or waits for, such as nvidia.com/gpu: unlike the usual ones they have a domain."""
        limits = self.spec_of_container.get("resources", {}).get("limits", {})
        return frozenset(name for name in limits if "/" in name)

    @property
    def process(self) -> str:
        """The same as long as the container's process is."""
        return f"{self.name}/{self.container.get('containerID', '')}/{self.container.get('restartCount', 0)}"

    @property
    def starting(self) -> bool:
        """Its runtime runs, can be asked, and is not ready."""
        return bool(self.address) and "running" in self.container.get("state", {}) and not self.leaving and not self.ready

    @property
    def silent(self) -> bool:
        """It has been ready since its process began, and misses its readiness probe now. To have passed the startup probe is not enough:
        each start has, a moment before it is ready. What is being ended falls silent too, and is none of these."""
        began = self.container.get("state", {}).get("running", {}).get("startedAt")
        ready = self.condition("ContainersReady")
        missed = self.container.get("started") and not self.container.get("ready") and ready.get("status") == "False"
        ended = self.leaving or self.condition("DisruptionTarget").get("status") == "True"
        since = ready.get("lastTransitionTime")
        return bool(missed and began and since and not ended and _moment(since) > _moment(began) + _TOLD_LATE)

    @property
    def being_made(self) -> bool:
        """It has a node, and its container is not made yet: images are fetched, volumes mounted, a network is given."""
        waiting = self.container.get("state", {"waiting": {"reason": "ContainerCreating"}}).get("waiting", {}).get("reason")
        return self.placed and not self.leaving and not self.over and waiting in ("ContainerCreating", "PodInitializing")

    @property
    def stuck(self) -> bool:
        """Being made, and its volumes and network are not there yet; from then on only its image is waited for (Kubernetes 1.29)."""
        return self.being_made and self.condition("PodReadyToStartContainers").get("status") != "True"

    def condition(self, kind: str) -> Json:
        return _condition(self.body, kind)

    @property
    def container(self) -> Json:
        """The runtime's container status; empty before the kubelet wrote one."""
        statuses: list[Json] = self.body.get("status", {}).get("containerStatuses", [])
        return next((status for status in statuses if status.get("name") == CONTAINER), {})


@dataclass(frozen=True)
class Trouble:
    """What Kubernetes tells of a pod in an Event and nowhere else; `reason` is the Event's."""

    reason: str
    message: str


@dataclass(frozen=True)
class Observed:
    """`deployment`, `service` and `claim` (the cache's) are None when the cluster has none of ours. `troubles` by the pod's uid.
    `exclusive`: a claim that the resource names can be held on one node, or by one pod, only."""

    deployment: Json | None = None
    service: Json | None = None
    pods: tuple[Pod, ...] = field(default_factory=tuple)
    claim: Json | None = None
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    exclusive: bool = False

    def count(self, name: str) -> int:
        """replicas, updatedReplicas or readyReplicas as the Deployment controller counts them."""
        return int((self.deployment or {}).get("status", {}).get(name, 0))

    @property
    def wanted(self) -> int:
        """Pods that the Deployment shall have."""
        return int(self.deployment["spec"].get("replicas", 1)) if self.deployment else 0

    @property
    def settled(self) -> bool:
        """The Deployment controller has seen the newest spec."""
        body = self.deployment or {}
        return bool(body.get("status", {}).get("observedGeneration", 0) >= body.get("metadata", {}).get("generation", 1))

    def deployment_condition(self, kind: str) -> Json:
        return _condition(self.deployment or {}, kind)


@dataclass(frozen=True)
class Listing:
    """All objects of one kind, in one namespace or in all (None), at one moment; `version` is that moment's resourceVersion."""

    kind: str
    namespace: str | None
    version: int
    items: tuple[Json, ...]


def _condition(body: Json, kind: str) -> Json:
    conditions: list[Any] = body.get("status", {}).get("conditions", [])
    return next((entry for entry in conditions if entry.get("type") == kind), {})


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
