"""The ModelDeployment as the operator reads it: frozen, with the schema's defaults filled in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

Json = dict[str, Any]

GROUP = "serving.jitney.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "ModelDeployment"
PLURAL = "modeldeployments"
LABEL = f"{GROUP}/model-deployment"
# On children: the digest of what was applied, so that a field we no longer want is noticed without a request.
APPLIED = f"{GROUP}/applied"
# On pods: which template they were made from. Ours, not the Deployment controller's hash, because plan must know it beforehand.
TEMPLATE = f"{GROUP}/template"
# On a ModelDeployment, from a front door that holds requests for it: each new value is a new call for a replica.
WANTED = f"{GROUP}/wanted-at"
MANAGER = "jitney-operator"
STATUS_MANAGER = "jitney-operator-status"
CONTAINER = "runtime"
PORT = 8000


# Fields of a spec that no pod has to be made anew for.
NOT_OF_A_POD = {"replicas", "suspend", "autoscaling", "rollout"}


@dataclass(frozen=True)
class Key:
    """Where one ModelDeployment and its children of the same name live."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    def __lt__(self, other: Key) -> bool:
        return str(self) < str(other)


@dataclass(frozen=True)
class Autoscaling:
    """Bounds of the replicas, requests that one replica shall have at most, and seconds for which less load must last."""

    least: int
    most: int
    target: int
    delay: int

    @classmethod
    def parse(cls, spec: Mapping[str, Any], max_num_seqs: int) -> Self:
        """Without a target a replica is full when its batch is."""
        target, delay = spec.get("targetRequestsPerReplica", max_num_seqs), spec.get("scaleDownDelaySeconds", 300)
        return cls(spec.get("minReplicas", 1), spec["maxReplicas"], target, delay)

    def clamp(self, replicas: int) -> int:
        return max(self.least, min(self.most, replicas))


@dataclass(frozen=True)
class Spec:
    """What the person asked for. Nested parts stay as the schema shapes them."""

    model: str
    served_model_name: str
    size: str | None = None
    quantization: str = "none"
    max_num_seqs: int = 16
    max_model_len: int | None = None
    revision: str | None = None
    device: str = "auto"
    replicas: int = 1
    suspend: bool = False
    image: str | None = None
    profile: str | None = None
    resources: Json = field(default_factory=dict)
    scheduling: Json = field(default_factory=dict)
    image_pull_secrets: tuple[Json, ...] = ()
    env: tuple[Json, ...] = ()
    args: tuple[str, ...] = ()
    cache: Json | None = None
    hf_token: Json | None = None
    api_key: Json | None = None
    startup_timeout: int | None = None
    rollout: Json = field(default_factory=dict)
    autoscaling: Autoscaling | None = None

    @classmethod
    def parse(cls, spec: Mapping[str, Any], name: str) -> Self:
        size = spec.get("size")
        return cls(
            model=spec["model"],
            served_model_name=spec.get("servedModelName", name),
            size=None if size is None else str(size),
            quantization=spec.get("quantization", "none"),
            max_num_seqs=spec.get("maxNumSeqs", 16),
            max_model_len=spec.get("maxModelLen"),
            revision=spec.get("revision"),
            device=spec.get("device", "auto"),
            replicas=spec.get("replicas", 1),
            suspend=spec.get("suspend", False),
            image=spec.get("image"),
            profile=spec.get("resourceProfile"),
            resources=spec.get("resources", {}),
            scheduling=spec.get("scheduling", {}),
            image_pull_secrets=tuple(spec.get("imagePullSecrets", ())),
            env=tuple(spec.get("env", ())),
            args=tuple(spec.get("args", ())),
            cache=spec.get("cache"),
            hf_token=spec.get("hfTokenSecretRef"),
            api_key=spec.get("apiKeySecretRef"),
            startup_timeout=spec.get("startupTimeoutSeconds"),
            rollout=spec.get("rollout", {}),
            autoscaling=Autoscaling.parse(spec["autoscaling"], spec.get("maxNumSeqs", 16)) if "autoscaling" in spec else None,
        )

    @property
    def wanted(self) -> int:
        """How many pods there shall be."""
        return 0 if self.suspend else self.replicas

    @property
    def drain_seconds(self) -> int:
        return int(self.rollout.get("drainSeconds", 120))


@dataclass(frozen=True)
class ModelDeployment:
    """One resource as last seen."""

    key: Key
    uid: str
    generation: int
    version: int
    deleting: bool
    spec: Spec
    status: Json
    # Of what the person asked for, without how many pods and how they change.
    asks: str = ""
    # A HorizontalPodAutoscaler (KEDA makes one too) sets spec.replicas.
    scaled_by_hpa: bool = False
    # Why it cannot be told whether one does; empty where that is known.
    doubt: str = ""
    # The annotation WANTED. Only that it changes means something.
    wanted_at: str = ""
    # When the server took it, in RFC 3339.
    created: str = ""

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        metadata = body["metadata"]
        return cls(
            key=Key(metadata["namespace"], metadata["name"]),
            uid=metadata["uid"],
            generation=metadata.get("generation", 1),
            version=int(metadata.get("resourceVersion") or 0),
            deleting="deletionTimestamp" in metadata,
            spec=Spec.parse(body["spec"], metadata["name"]),
            status=body.get("status", {}),
            asks=_digest({name: value for name, value in body["spec"].items() if name not in NOT_OF_A_POD}),
            wanted_at=(metadata.get("annotations") or {}).get(WANTED, ""),
            created=metadata.get("creationTimestamp", ""),
        )

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def scales_itself(self) -> bool:
        """Its load decides about the replicas, and no HorizontalPodAutoscaler does."""
        return self.spec.autoscaling is not None and not self.spec.suspend and not self.scaled_by_hpa

    def with_hpa(self, scaled: bool, doubt: str = "") -> Self:
        """Whom another has been seen to scale is its own as long as nobody has seen more."""
        return replace(self, scaled_by_hpa=scaled, doubt="" if scaled else doubt)

    def with_replicas(self, replicas: int) -> Self:
        return replace(self, spec=replace(self.spec, replicas=replicas))

    @property
    def claim_name(self) -> str:
        """Of the cache's PersistentVolumeClaim, when we make one."""
        return f"{self.name}-cache"

    @property
    def labels(self) -> dict[str, str]:
        """On every child."""
        return {
            LABEL: self.name,
            "app.kubernetes.io/name": "jitney-runtime",
            "app.kubernetes.io/instance": self.name,
            "app.kubernetes.io/managed-by": "jitney-operator",
        }

    @property
    def owner(self) -> Json:
        """The reference that makes deletion the garbage collector's."""
        reference = {"apiVersion": API_VERSION, "kind": KIND, "name": self.name, "uid": self.uid}
        return {**reference, "controller": True, "blockOwnerDeletion": True}


def _digest(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
