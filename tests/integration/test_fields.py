"""Every field of the resource, as the real API server stores what comes of it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.control_plane import ControlPlane
from support import children
from support.namespaces import Namespace
from support.operator import Operator

SMALL: dict[str, Any] = {"model": "smollm2-instruct", "size": "0.135"}
CONFIGURATION = {
    "profiles": {
        "cpu": {"memory": "4Gi", "requests": {"cpu": "1"}, "limits": {"memory": "4Gi"}},
        "nvidia-gpu": {
            "device": "cuda",
            "gpus": 2,
            "memory": "24Gi",
            "requests": {"cpu": "2"},
            "limits": {"memory": "32Gi"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "nodeSelector": {"gpu": "yes"},
        },
    },
    "allow": {"hostPaths": ["/mnt/models"]},
}
AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}]
        }
    },
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 7, "podAffinityTerm": {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "loud"}}}}
        ]
    },
}
TOLERATIONS = [
    {"key": "team", "operator": "Equal", "value": "chat", "effect": "NoExecute", "tolerationSeconds": 60},
    {"operator": "Exists", "effect": "PreferNoSchedule"},
]
# In the cluster's whole realm, where admission looks for them.
CLASSES = [
    {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "chats-first"}, "value": 1000},
    {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "sandboxed"}, "handler": "runsc"},
]
EVERYTHING: dict[str, Any] = {
    **SMALL,
    "servedModelName": "team/chat",
    "maxModelLen": 1024,
    "maxNumSeqs": 8,
    "revision": "v1",
    "replicas": 2,
    "image": "registry.example/runtime:1",
    "imagePullSecrets": [{"name": "registry"}, {"name": "mirror"}],
    "hfTokenSecretRef": {"name": "hub", "key": "token"},
    "apiKeySecretRef": {"name": "keys", "key": "main"},
    "env": [
        {"name": "PLAIN", "value": "1"},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "secrets", "key": "a"}}},
        {"name": "SETTING", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "b"}}},
        {"name": "HF_HOME", "value": "/mnt/hub"},
    ],
    "args": ["--max-waiting", "2", "--log-level", "debug"],
    "startupTimeoutSeconds": 901,
    "resources": {"requests": {"cpu": "500m"}, "limits": {"memory": "3Gi"}},
    "scheduling": {
        "nodeSelector": {"disk": "fast"},
        "tolerations": TOLERATIONS,
        "affinity": AFFINITY,
        "priorityClassName": "chats-first",
        "runtimeClassName": "sandboxed",
    },
    "cache": {"type": "EmptyDir", "size": "20Gi"},
    "rollout": {"strategy": "Recreate", "drainSeconds": 30},
}


@pytest.fixture
def operator(plane: ControlPlane, namespace: Namespace, tmp_path: Path) -> Iterator[Operator]:
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(CONFIGURATION))
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log", JITNEY_CONFIG=str(file)) as operator:
        yield operator


def pod(namespace: Namespace) -> dict[str, Any]:
    """The pod's spec as the Deployment keeps it."""
    return dict(children.deployment(namespace)["spec"]["template"]["spec"])


def runtime(namespace: Namespace) -> dict[str, Any]:
    (container,) = pod(namespace)["containers"]
    return dict(container)


def test_every_field_reaches_the_pods(namespace: Namespace, operator: Operator):
    for body in CLASSES:
        namespace.kubectl("apply", "-f", "-", input=json.dumps(body))
    namespace.create(**EVERYTHING)
    deployment = operator.until(lambda: children.deployment(namespace))
    spec, container = pod(namespace), runtime(namespace)

    assert container["image"] == "registry.example/runtime:1"
    assert spec["imagePullSecrets"] == [{"name": "registry"}, {"name": "mirror"}]
    assert {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in container["env"]} == {
        "HF_TOKEN": {"secretKeyRef": {"name": "hub", "key": "token"}},
        "JITNEY_API_KEY": {"secretKeyRef": {"name": "keys", "key": "main"}},
        "PLAIN": "1",
        "SECRET": {"secretKeyRef": {"name": "secrets", "key": "a"}},
        "SETTING": {"configMapKeyRef": {"name": "settings", "key": "b"}},
        "HF_HOME": "/mnt/hub",
    }
    ours, theirs = container["args"][: -len(EVERYTHING["args"])], container["args"][-len(EVERYTHING["args"]) :]
    assert theirs == EVERYTHING["args"]
    flags = dict(zip(ours[::2], ours[1::2], strict=True))
    wanted = {"--served-model-name": "team/chat", "--max-model-len": "1024", "--max-num-seqs": "8", "--revision": "v1"}
    assert flags == flags | wanted | {"--drain-seconds": "30", "--device": "cpu"}

    probe = container["startupProbe"]
    assert 901 <= probe["failureThreshold"] * probe["periodSeconds"] <= 901 + probe["periodSeconds"]
    assert deployment["spec"]["progressDeadlineSeconds"] > 901
    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert spec["terminationGracePeriodSeconds"] == 45

    assert container["resources"] == {"requests": {"cpu": "500m"}, "limits": {"memory": "3Gi"}}
    assert spec["nodeSelector"] == {"disk": "fast"}
    assert spec["tolerations"] == TOLERATIONS
    assert spec["affinity"] == AFFINITY
    assert spec["priorityClassName"] == "chats-first"
    assert spec["runtimeClassName"] == "sandboxed"
    assert volume(namespace, "cache") == {"name": "cache", "emptyDir": {"sizeLimit": "20Gi"}}
    # That the Deployment is stored says little of its template: admission looks at pods.
    children.make_pod(namespace)
    made = json.loads(namespace.kubectl("get", "pod", "chat-1", "-o", "json"))["spec"]
    assert (made["priority"], made["runtimeClassName"]) == (1000, "sandboxed")


@pytest.mark.parametrize(
    ("model", "repository"),
    [("hf://org/unheard-of", "org/unheard-of"), ("pvc://weights/model", "/mnt/model/model"), ("file:///opt/model", "/opt/model")],
    ids=["the hub", "a claim", "the image"],
)
def test_a_model_that_nobody_measured_is_taken_and_told(namespace: Namespace, operator: Operator, model: str, repository: str):
    """Its shape is not known, so whether it fits is not either; what the person says of it goes to the runtime as it is."""
    namespace.create(model=model, maxModelLen=2048)
    operator.until(lambda: children.settled(namespace))
    accepted, resolved = namespace.condition("Accepted"), namespace.get()["status"]["resolved"]
    assert (accepted["status"], accepted["reason"]) == ("True", "ShapeUnknown")
    assert accepted["message"] == "The model is not in the catalogue: whether it fits was not checked."
    assert accepted["message"] in namespace.kubectl("describe", "modeldeployment", "chat")
    assert (resolved["repository"], resolved["maxModelLen"], resolved["profile"]) == (repository, 2048, "cpu")
    assert not {"estimatedMemory", "breakdown", "size"} & resolved.keys()
    args = runtime(namespace)["args"]
    flags = dict(zip(args[::2], args[1::2], strict=True))
    assert (flags["--model"], flags["--max-model-len"]) == (repository, "2048")
    # It is no failure: once it serves, the one word says so.
    children.finish_rollout(namespace)
    operator.until(lambda: namespace.reason() == "Ready")
    assert namespace.condition("Accepted")["reason"] == "ShapeUnknown"


def volume(namespace: Namespace, name: str) -> dict[str, Any]:
    return next(dict(found) for found in pod(namespace)["volumes"] if found["name"] == name)


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ({"type": "EmptyDir"}, {"emptyDir": {}}),
        ({"type": "HostPath", "path": "/mnt/models/hub"}, {"hostPath": {"path": "/mnt/models/hub", "type": "DirectoryOrCreate"}}),
        ({"type": "PersistentVolumeClaim", "claimName": "shared"}, {"persistentVolumeClaim": {"claimName": "shared"}}),
    ],
    ids=["EmptyDir", "HostPath", "a claim that is there"],
)
def test_where_downloads_go(namespace: Namespace, operator: Operator, cache: dict[str, Any], expected: dict[str, Any]):
    namespace.create(**SMALL, cache=cache)
    operator.until(lambda: children.deployment(namespace))
    assert volume(namespace, "cache") == {"name": "cache", **expected}
    assert {"name": "cache", "mountPath": "/cache"} in runtime(namespace)["volumeMounts"]
    assert not namespace.kubectl("get", "persistentvolumeclaims", "-o", "name"), "none is made that was not asked for"


def test_one_cache_after_another(namespace: Namespace, operator: Operator):
    """A volume may have one source only: the old one has to go when another comes."""
    namespace.create(**SMALL, cache={"type": "HostPath", "path": "/mnt/models"})
    operator.until(lambda: "hostPath" in volume(namespace, "cache"))
    steps: list[tuple[dict[str, Any] | None, dict[str, Any]]] = [
        ({"type": "PersistentVolumeClaim", "claimName": "shared"}, {"persistentVolumeClaim": {"claimName": "shared"}}),
        ({"type": "EmptyDir", "size": "1Gi"}, {"emptyDir": {"sizeLimit": "1Gi"}}),
        (None, {"emptyDir": {}}),
    ]
    for cache, expected in steps:
        # A merge patch alone would leave the fields of the type before.
        namespace.update(cache=None)
        namespace.update(cache=cache)
        operator.until(lambda expected=expected: volume(namespace, "cache") == {"name": "cache", **expected})


def test_the_way_of_a_rollout_changes_on_a_living_resource(namespace: Namespace, operator: Operator):
    """The server takes no rollingUpdate beside Recreate: what was applied before has to go with it."""
    namespace.create(**SMALL)
    operator.until(lambda: strategy(namespace) == rolling(1, 0))
    namespace.update(rollout={"strategy": "Recreate"})
    operator.until(lambda: strategy(namespace) == {"type": "Recreate"})
    namespace.update(rollout={"strategy": "RollingUpdate", "maxSurge": 0})
    operator.until(lambda: strategy(namespace) == rolling(0, 1))
    namespace.update(rollout={"strategy": "Recreate", "maxSurge": None})
    operator.until(lambda: strategy(namespace) == {"type": "Recreate"})
    assert namespace.condition("Accepted")["status"] == "True"


def strategy(namespace: Namespace) -> dict[str, Any]:
    return dict(children.deployment(namespace)["spec"]["strategy"])


def rolling(surge: int, unavailable: int) -> dict[str, Any]:
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}


def test_what_the_server_writes_in_its_own_way_is_applied_once(namespace: Namespace, operator: Operator):
    """1024Mi is stored as 1Gi, and empty lists not at all: neither is a difference that must be put right for ever."""
    term = {"topologyKey": "zone", "namespaces": [], "labelSelector": {"matchLabels": {"app": "x"}, "matchExpressions": []}}
    affinity = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}, "podAffinity": {}}
    resources = {"requests": {"cpu": "1.", "memory": "1024Mi"}, "limits": {"memory": "2048Mi"}}
    namespace.create(
        **SMALL, cache={"type": "EmptyDir", "size": "1024Mi"}, resources=resources, scheduling={"affinity": affinity}, replicas=0
    )
    operator.until(lambda: children.settled(namespace))
    assert volume(namespace, "cache")["emptyDir"]["sizeLimit"] == "1Gi", "the server does as this test believes"
    children.finish_rollout(namespace)
    operator.until(lambda: namespace.reason() == "ScaledToZero")
    assert namespace.condition("Ready")["status"] == "True"


def test_pods_follow_one_another_on_a_claim_for_one_pod(namespace: Namespace, operator: Operator):
    for name, modes in (("alone", ["ReadWriteOncePod"]), ("shared", ["ReadOnlyMany", "ReadWriteOnce"])):
        spec = {"accessModes": modes, "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}}}
        body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
        namespace.kubectl("apply", "-f", "-", input=json.dumps(body))
    namespace.create(model="pvc://alone/model")
    operator.until(lambda: strategy(namespace) == {"type": "Recreate"})
    namespace.update(model="pvc://shared/model")
    operator.until(lambda: strategy(namespace) == rolling(1, 0))
    namespace.update(cache={"type": "PersistentVolumeClaim", "claimName": "alone"})
    operator.until(lambda: strategy(namespace) == {"type": "Recreate"})


def test_a_mount_that_fails_is_told_from_the_pods_events(namespace: Namespace, operator: Operator, plane: ControlPlane, tmp_path: Path):
    """The pod's own status says ContainerCreating, as when all is well."""
    namespace.create(model="pvc://weights/model")
    operator.until(lambda: children.deployment(namespace))
    children.make_pod(namespace)
    children.set_container(namespace, {"waiting": {"reason": "ContainerCreating"}}, phase="Pending")
    uid = json.loads(namespace.kubectl("get", "pod", "chat-1", "-o", "json"))["metadata"]["uid"]
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "chat-1.1"},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace.name, "name": "chat-1", "uid": uid},
        "type": "Warning",
        "reason": "FailedMount",
        "message": 'MountVolume.SetUp failed for volume "weights" : hostPath type check failed: /x is not a directory',
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    namespace.kubectl("create", "-f", "-", input=json.dumps(event))
    operator.until(lambda: namespace.reason() == "MountFailed")
    failure = namespace.get()["status"]["lastFailure"]
    assert failure["pod"] == "chat-1"
    assert "container" not in failure, "none was made"
    assert "is not a directory" in failure["message"]
    version, configuration = namespace.get()["metadata"]["resourceVersion"], {"JITNEY_CONFIG": str(tmp_path / "config.yaml")}
    operator.process.terminate()
    operator.process.wait(20)
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "second.log", identity="second", **configuration) as second:
        # Until it has asked itself, what was told holds.
        second.until(lambda: "lease acquired" in second.log.read_text())
        time.sleep(5)
        assert namespace.get()["metadata"]["resourceVersion"] == version
        children.set_container(namespace, {"running": {}})
        second.until(lambda: namespace.reason() != "MountFailed")


@pytest.mark.parametrize(
    "resources",
    [{"requests": {"cpu": "4"}, "limits": {"cpu": "2"}}, {"limits": {"nvidia.com/gpu": 3}}],
    ids=["more asked for than allowed", "a GPU limit without its request"],
)
def test_resources_that_contradict_themselves_are_refused_in_the_servers_words(
    namespace: Namespace, operator: Operator, resources: dict[str, Any]
):
    namespace.create(**SMALL, resourceProfile="nvidia-gpu", resources=resources)
    operator.until(lambda: namespace.reason() == "ChildRefused")
    assert (
        "must be less than or equal to" in namespace.condition("Accepted")["message"]
        or "must be equal" in namespace.condition("Accepted")["message"]
    )


def test_gpus_only_where_the_profile_has_them(namespace: Namespace, operator: Operator):
    namespace.create("small", **SMALL, resourceProfile="cpu")
    namespace.create(**SMALL, resourceProfile="nvidia-gpu", scheduling={"tolerations": TOLERATIONS, "nodeSelector": {"disk": "fast"}})
    small = operator.until(lambda: children.deployment(namespace, "small"))
    assert "gpu" not in json.dumps(small["spec"]["template"]["spec"]["containers"][0]["resources"])
    operator.until(lambda: children.deployment(namespace))
    container, spec = runtime(namespace), pod(namespace)
    assert container["resources"] == {
        "requests": {"cpu": "2", "nvidia.com/gpu": "2"},
        "limits": {"memory": "32Gi", "nvidia.com/gpu": "2"},
    }
    assert container["args"][container["args"].index("--device") + 1] == "cuda"
    assert spec["tolerations"] == [*CONFIGURATION["profiles"]["nvidia-gpu"]["tolerations"], *TOLERATIONS]
    assert spec["nodeSelector"] == {"gpu": "yes", "disk": "fast"}
    assert strategy(namespace) == rolling(0, 1), "a GPU is seldom spare"


def test_a_flag_of_a_field_is_told_to_be_one(namespace: Namespace, operator: Operator):
    namespace.create(**SMALL, args=["--max-num-seqs", "512"])
    operator.until(lambda: namespace.reason() == "NotAllowed")
    accepted = namespace.condition("Accepted")
    assert (accepted["reason"], accepted["message"]) == (
        "NotAllowed",
        "spec.args: --max-num-seqs is set by spec.maxNumSeqs: take it out, and set that field.",
    )
    namespace.update(args=None, maxNumSeqs=512, maxModelLen=64, resourceProfile="cpu")
    operator.until(lambda: namespace.condition("Accepted")["status"] == "True")


def test_gpus_of_the_resources_own_limits_are_told(namespace: Namespace, operator: Operator):
    own = {"nvidia.com/gpu": "1"}
    namespace.create(**SMALL, resourceProfile="cpu", resources={"requests": own, "limits": own})
    operator.until(lambda: children.deployment(namespace))
    operator.until(lambda: "resolved" in namespace.get()["status"])
    assert namespace.get()["status"]["resolved"]["gpus"] == 1
    assert strategy(namespace) == rolling(0, 1)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize(
    ("spec", "device"), [(SMALL, "cpu"), ({"model": "qwen2.5-instruct", "size": "14"}, "cuda")], ids=["small", "large"]
)
def test_a_quantized_model_is_served_where_it_fits(
    namespace: Namespace, operator: Operator, spec: dict[str, Any], device: str, quantization: str
):
    namespace.create(**spec, quantization=quantization)
    operator.until(lambda: children.deployment(namespace))
    args = runtime(namespace)["args"]
    assert [args[args.index(flag) + 1] for flag in ("--quantization", "--device")] == [quantization, device]
    operator.until(lambda: namespace.condition("Accepted")["reason"] == "Fits")
    resolved = namespace.get()["status"]["resolved"]
    assert (resolved["device"], "holds the model" in resolved.get("explanation", "")) == (device, device == "cuda")


def test_a_server_without_image_volumes_is_said(namespace: Namespace, plane: ControlPlane, tmp_path: Path):
    """The tests' API server is older than image volumes are on by default."""
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log") as operator:
        namespace.create(model="oci://registry.example/models/x:1")
        operator.until(lambda: namespace.reason() == "FeatureUnavailable")
        assert namespace.condition("Stalled")["status"] == "True"
        assert not namespace.kubectl("get", "deployments", "-o", "name"), "an empty folder in the model's place would be a lie"
        assert "image volumes" in namespace.condition("Accepted")["message"]
