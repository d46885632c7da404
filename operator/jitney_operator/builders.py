"""The children as Kubernetes shall have them: a Deployment and a Service. Pure; plain dicts."""

from __future__ import annotations

import hashlib
import json

from jitney_operator import fit
from jitney_operator.api import APPLIED, CONTAINER, LABEL, PORT, TEMPLATE, Json, ModelDeployment
from jitney_operator.resolve import MOUNT, Resolved, compute

# After SIGTERM requests are taken this long, because endpoint removal races the signal.
LINGER = 5
SHORTEST_STARTUP = 600
# A slow disk or hub: 20 MB of weights per second.
STARTUP_BYTES_PER_SECOND = 20_000_000
# Of a weight: bfloat16, as nearly all are published.
PUBLISHED_BYTES = 2


def children(
    mdep: ModelDeployment, resolved: Resolved, pull_policy: str, exclusive: bool = False, live: str | None = None
) -> tuple[Json, ...]:
    """In the order they are applied. `exclusive`: a claim that it names is for one node or one pod at a time. `live`: the digest of the pod
    template that is there."""
    made = [claim(mdep)] if makes_claim(mdep) else []
    return tuple(_sealed(child) for child in (*made, service(mdep), deployment(mdep, resolved, pull_policy, exclusive, live)))


def makes_claim(mdep: ModelDeployment) -> bool:
    """The cache is a PersistentVolumeClaim of our own making; with claimName it is somebody else's."""
    cache = mdep.spec.cache or {}
    return cache.get("type") == "PersistentVolumeClaim" and "claimName" not in cache


def claim(mdep: ModelDeployment) -> Json:
    """Goes with the resource. Its size may grow by hand; what is asked for here is only its beginning."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": (mdep.spec.cache or {})["size"]}}}
    metadata = {**_metadata(mdep), "name": mdep.claim_name}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def service(mdep: ModelDeployment) -> Json:
    ports = [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]
    spec = {"type": "ClusterIP", "selector": {LABEL: mdep.name}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(mdep), "spec": spec}


def deployment(mdep: ModelDeployment, resolved: Resolved, pull_policy: str, exclusive: bool, live: str | None) -> Json:
    template = pod_template(mdep, resolved, pull_policy)
    if live == digest(before := _template_of_before(template)):
        template = before
    template["metadata"]["annotations"] = {TEMPLATE: digest(template)}
    spec = {
        "replicas": mdep.spec.wanted,
        # Longer than the startup budget, or a slow download would look like a failed rollout.
        "progressDeadlineSeconds": startup_seconds(mdep, resolved) + 300,
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": {LABEL: mdep.name}},
        "strategy": strategy(mdep, resolved, exclusive),
        "template": template,
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": _metadata(mdep), "spec": spec}


def strategy(mdep: ModelDeployment, resolved: Resolved, exclusive: bool) -> Json:
    """A GPU is seldom spare, and a claim for one node, as one that is made, cannot be shared: there the old pod leaves first. A surge that
    a person asked for is theirs, as where all pods are on one node."""
    rollout = mdep.spec.rollout
    alone = (exclusive or makes_claim(mdep)) and "maxSurge" not in rollout
    if rollout.get("strategy") == "Recreate" or alone:
        return {"type": "Recreate"}
    surge = int(rollout.get("maxSurge", 0 if resolved.gpus else 1))
    unavailable = 0 if surge else 1
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}


def startup_seconds(mdep: ModelDeployment, resolved: Resolved) -> int:
    """Until a pod that has not become ready is started anew."""
    if mdep.spec.startup_timeout:
        return mdep.spec.startup_timeout
    if not resolved.model:
        return SHORTEST_STARTUP
    # The most that the runtime makes of them, wherever the pod comes to lie: this is a part of the pod, which another figure makes anew.
    form = "plain" if mdep.spec.quantization == "none" else mdep.spec.quantization
    held = fit.weight_bytes(resolved.model, resolved.profile.device, form)
    # Quantized when they are there: what comes over the network is as published.
    published = PUBLISHED_BYTES * resolved.model.parameters
    return max(SHORTEST_STARTUP, max(held, published) // STARTUP_BYTES_PER_SECOND)


def pod_template(mdep: ModelDeployment, resolved: Resolved, pull_policy: str) -> Json:
    user = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532}
    spec: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # The first process of a namespace hears no SIGTERM until it has asked for it: one that is deleted in its first tenth of a second
        # would live out its grace period. Here that process is the sandbox's own.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": LINGER + mdep.spec.drain_seconds + 10,
        "securityContext": {**user, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container(mdep, resolved, pull_policy)],
        "volumes": volumes(mdep, resolved),
    }
    return {"metadata": {"labels": mdep.labels}, "spec": spec | scheduling(mdep, resolved)}


def _template_of_before(template: Json) -> Json:
    """What version 0.1.0 of the operator made of the same. What runs by it stays: a newer version restarts nothing."""
    return {**template, "spec": {name: value for name, value in template["spec"].items() if name != "shareProcessNamespace"}}


def container(mdep: ModelDeployment, resolved: Resolved, pull_policy: str) -> Json:
    return {
        "name": CONTAINER,
        "image": resolved.image,
        "imagePullPolicy": pull_policy,
        "args": args(mdep, resolved),
        "env": env(mdep, resolved),
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "resources": compute(mdep.spec, resolved.profile),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            # The hook that puts a GPU into a container writes to its root.
            "readOnlyRootFilesystem": not resolved.profile.gpus,
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts(resolved),
    } | probes(startup_seconds(mdep, resolved))


def args(mdep: ModelDeployment, resolved: Resolved) -> list[str]:
    """The runtime's flags, then the person's own. Of those that a field sets only --device cpu may be there too, and wins."""
    spec = mdep.spec
    flags: list[tuple[str, object]] = [
        ("--model", resolved.reference),
        ("--served-model-name", spec.served_model_name),
        ("--max-num-seqs", spec.max_num_seqs),
        ("--quantization", spec.quantization),
        ("--device", resolved.profile.device),
        ("--drain-seconds", spec.drain_seconds),
        ("--host", "0.0.0.0"),
        ("--port", PORT),
    ]
    flags += [("--revision", resolved.revision)] if resolved.revision else []
    flags += [("--max-model-len", resolved.max_model_len)] if resolved.max_model_len else []
    return [str(word) for flag in flags for word in flag] + list(spec.args)


def env(mdep: ModelDeployment, resolved: Resolved) -> list[Json]:
    """The person's own come last and replace ours of the same name."""
    ours: list[Json] = [{"name": "HF_HOME", "value": "/cache/huggingface"}]
    for name, reference in (("HF_TOKEN", mdep.spec.hf_token), ("JITNEY_API_KEY", mdep.spec.api_key)):
        if reference:
            ours.append({"name": name, "valueFrom": {"secretKeyRef": {"name": reference["name"], "key": reference["key"]}}})
    if resolved.hub:
        ours.append({"name": "HF_ENDPOINT", "value": resolved.hub})
    return list({entry["name"]: entry for entry in [*ours, *mdep.spec.env]}.values())


def probes(startup: int) -> Json:
    """Ready at once when loaded; killed only when the engine loop is dead, or never came up in time."""
    ready = {"path": "/readyz", "port": "http", "scheme": "HTTP"}
    alive = {"path": "/livez", "port": "http", "scheme": "HTTP"}
    period = 2
    return {
        "startupProbe": {"httpGet": ready, "periodSeconds": period, "timeoutSeconds": 2, "failureThreshold": -(-startup // period)},
        "readinessProbe": {"httpGet": ready, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 2},
        "livenessProbe": {"httpGet": alive, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 3},
    }


def mounts(resolved: Resolved) -> list[Json]:
    found: list[Json] = [{"name": name, "mountPath": path} for name, path in (("cache", "/cache"), ("tmp", "/tmp"), ("shm", "/dev/shm"))]
    return found + ([{"name": "model", "mountPath": MOUNT, "readOnly": True}] if resolved.source else [])


def volumes(mdep: ModelDeployment, resolved: Resolved) -> list[Json]:
    shm = {"name": "shm", "emptyDir": {"medium": "Memory"}}
    found: list[Json] = [{"name": "cache", **cache(mdep)}, {"name": "tmp", "emptyDir": {}}, shm]
    if resolved.source:
        found.append({"name": "model", **resolved.source})
    return found


def cache(mdep: ModelDeployment) -> Json:
    """The volume that downloads go to: with the pod by default, on a claim or in a folder of the node where it was asked for."""
    asked = mdep.spec.cache or {"type": "EmptyDir"}
    match asked["type"]:
        case "PersistentVolumeClaim":
            return {"persistentVolumeClaim": {"claimName": asked.get("claimName", mdep.claim_name)}}
        case "HostPath":
            return {"hostPath": {"path": asked["path"], "type": "DirectoryOrCreate"}}
    return {"emptyDir": {"sizeLimit": asked["size"]} if "size" in asked else {}}


def scheduling(mdep: ModelDeployment, resolved: Resolved) -> Json:
    """The profile's constraints and the person's together; empty ones are left out."""
    wish, profile = mdep.spec.scheduling, resolved.profile
    wanted: Json = {
        "nodeSelector": profile.node_selector | wish.get("nodeSelector", {}),
        "tolerations": [*profile.tolerations, *wish.get("tolerations", ())],
        "affinity": wish.get("affinity"),
        "priorityClassName": wish.get("priorityClassName"),
        "runtimeClassName": wish.get("runtimeClassName") or profile.runtime_class,
        "schedulerName": profile.scheduler,
        "imagePullSecrets": [{"name": secret["name"]} for secret in mdep.spec.image_pull_secrets],
    }
    return {name: value for name, value in wanted.items() if value}


def digest(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _metadata(mdep: ModelDeployment) -> Json:
    return {"name": mdep.name, "namespace": mdep.key.namespace, "labels": mdep.labels, "ownerReferences": [mdep.owner]}


def _sealed(child: Json) -> Json:
    child["metadata"]["annotations"] = {APPLIED: digest(child)}
    return child
