"""Resources and their children in memory, and what the plan makes of them; no cluster."""

from __future__ import annotations

import copy
from typing import Any

from jitney_operator import plan
from jitney_operator.api import TEMPLATE, ModelDeployment
from jitney_operator.catalogue import Catalogue
from jitney_operator.observed import Observed, Pod
from jitney_operator.settings import Allow, Profile, Settings

GI = 1024**3
SETTINGS = Settings(
    profiles={
        "cpu": Profile("cpu", "cpu", 4 * GI, limits={"memory": "4Gi"}),
        "gpu": Profile("gpu", "cuda", 24 * GI, gpus=1),
    },
    allow=Allow(images=("registry.example/*",), env=("HF_*", "JITNEY_*"), host_paths=("/mnt/models",)),
)
CATALOGUE = Catalogue.read()
SMALL = {"model": "smollm2-instruct", "size": "0.135"}
NOW = "2026-01-01T00:00:00Z"


def resource(status: dict[str, Any] | None = None, **spec: Any) -> ModelDeployment:
    metadata = {"name": "chat", "namespace": "team", "uid": "u1", "generation": 1}
    return ModelDeployment.parse({"metadata": metadata, "spec": spec, "status": status or {}})


def make(mdep: ModelDeployment, observed: Observed | None = None) -> plan.Plan:
    return plan.make(mdep, observed or Observed(), SETTINGS, CATALOGUE)


def running(mdep: ModelDeployment, container: dict[str, Any] | None = None, **conditions: str) -> Observed:
    """The children as planned, fully reported, with one pod."""
    service, deployment = (copy.deepcopy(child) for child in make(mdep).changes)
    ready = int(conditions.get("Ready") == "True")
    deployment["metadata"]["generation"] = 1
    deployment["status"] = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": ready}
    template = deployment["spec"]["template"]["metadata"]["annotations"][TEMPLATE]
    metadata = {"name": "chat-1", "uid": "p1", "annotations": {TEMPLATE: template}}
    status = {
        "conditions": [{"type": kind, "status": value} for kind, value in conditions.items()],
        "containerStatuses": [{"name": "runtime", "image": "x:1", **(container or {})}],
    }
    spec = {**deployment["spec"]["template"]["spec"], "nodeName": "n"}
    return Observed(deployment, service, (Pod({"metadata": metadata, "spec": spec, "status": status}),))


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {entry["type"]: (entry["status"], entry["reason"]) for entry in status["conditions"]}
