"""The resource's schema and messages, one by one, against the real API server, at the edges of every bound."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from support.namespaces import CRD, Namespace, define

MODEL = "smollm2-instruct"


def test_defaults_and_the_status_of_a_resource_that_nobody_has_looked_at(namespace: Namespace):
    namespace.create(model=MODEL)
    found = namespace.get()
    assert found["spec"] == {
        "model": MODEL,
        "engine": "transformers",
        "device": "auto",
        "maxNumSeqs": 16,
        "quantization": "none",
        "replicas": 1,
        "rollout": {"strategy": "RollingUpdate", "drainSeconds": 120},
        "suspend": False,
    }
    (ready,) = found["status"]["conditions"]
    assert (ready["type"], ready["status"], ready["reason"], ready["message"]) == (
        "Ready",
        "Unknown",
        "Pending",
        "Waiting for the operator",
    )
    assert found["status"]["observedGeneration"] == 0 != found["metadata"]["generation"]


def test_the_columns(namespace: Namespace):
    namespace.create(model=MODEL)
    header, row = namespace.kubectl("get", "mdep").splitlines()
    assert header.split() == ["NAME", "MODEL", "ENGINE", "READY", "STATUS", "PROGRESS", "AGE"]
    assert row.split()[:4] == ["chat", MODEL, "transformers", "Pending"]
    wide = namespace.kubectl("get", "mdep", "-o", "wide").splitlines()
    assert [name.strip() for name in wide[0].split("   ") if name.strip()][-3:] == ["SERVED NAME", "PROFILE", "URL"]


def test_kubectl_scale_writes_replicas(namespace: Namespace):
    namespace.create(model=MODEL)
    namespace.kubectl("scale", "modeldeployment", "chat", "--replicas=3")
    assert namespace.get()["spec"]["replicas"] == 3


def test_a_misspelt_field_is_refused_by_kubectl(namespace: Namespace):
    with pytest.raises(RuntimeError, match=r'unknown field "spec.maxNumSeq"'):
        namespace.create(model=MODEL, maxNumSeq=4)


def test_the_engine_cannot_be_changed(namespace: Namespace):
    """There is one engine so far, and the list of them refuses every other before the rule is asked. So the rule is asked in a
    definition of the test's own that knows two."""
    definition = yaml.safe_load(CRD.read_text())
    spec = definition["spec"]
    spec["group"], spec["names"] = "test.jitney.dev", {"kind": "TwoEngines", "plural": "twoengines"}
    definition["metadata"] = {"name": "twoengines.test.jitney.dev"}
    fields = spec["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    assert fields["engine"]["enum"] == ["transformers"], "with a second engine this test needs no definition of its own"
    fields["engine"]["enum"] = ["transformers", "other"]
    define(namespace.plane, json.dumps(definition))
    body = {"apiVersion": "test.jitney.dev/v1alpha1", "kind": "TwoEngines", "metadata": {"name": "chat"}, "spec": {"model": MODEL}}
    namespace.kubectl("create", "-f", "-", input=json.dumps(body))
    with pytest.raises(RuntimeError, match=r"spec\.engine: .*engine cannot be changed: make a new ModelDeployment"):
        namespace.kubectl("patch", "twoengines", "chat", "--type=merge", "-p", '{"spec": {"engine": "other"}}')
    namespace.kubectl("patch", "twoengines", "chat", "--type=merge", "-p", '{"spec": {"engine": "transformers", "replicas": 2}}')


@pytest.mark.parametrize("name", ["a", "qwen2-5", "a" * 52, "x-9"])
def test_names_that_a_service_may_have(namespace: Namespace, name: str):
    namespace.create(name, model=MODEL)


FOR_A_SERVICE = "because a Service gets this name"


@pytest.mark.parametrize(
    ("name", "words"),
    [("qwen2.5", FOR_A_SERVICE), ("9lives", FOR_A_SERVICE), ("a" * 53, FOR_A_SERVICE), ("a-", "a lowercase RFC 1123")],
    ids=["dot", "digit first", "too long", "dash last"],
)
def test_other_names_are_refused_with_the_way_out(namespace: Namespace, name: str, words: str):
    with pytest.raises(RuntimeError, match=words):
        namespace.create(name, model=MODEL)


ACCEPTED: list[dict[str, Any]] = [
    {"model": "qwen1.5-chat", "size": 4},
    {"model": "qwen1.5-chat", "size": "0.5"},
    {"model": "org/repo", "revision": "v1.0"},
    {"model": "hf://org/repo.name_x"},
    {"model": "pvc://claim"},
    {"model": "pvc://my.claim/path/to model"},
    {"model": "file:///models/x"},
    {"model": "oci://registry.example/model:1"},
    {"model": MODEL, "maxNumSeqs": 1},
    {"model": MODEL, "maxNumSeqs": 1024},
    {"model": MODEL, "maxModelLen": 16},
    {"model": MODEL, "maxModelLen": 10_000_000},
    {"model": MODEL, "replicas": 0},
    {"model": MODEL, "replicas": 1000},
    {"model": MODEL, "startupTimeoutSeconds": 1},
    {"model": MODEL, "startupTimeoutSeconds": 86400},
    {"model": MODEL, "servedModelName": "Qwen/Qwen2.5:chat"},
    {"model": MODEL, "servedModelName": "7" * 256},
    {"model": "o/r", "revision": "a"},
    {"model": "o/r", "revision": "refs/pr/" + "1" * 120},
    {"model": "m" * 512},
    {"model": MODEL, "image": "i" * 512},
    {"model": MODEL, "resourceProfile": "p" * 63},
    {"model": MODEL, "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"nvidia.com/gpu": 1}}},
    {"model": MODEL, "env": [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
    {"model": MODEL, "hfTokenSecretRef": {"name": "hub", "key": "token"}, "apiKeySecretRef": {"name": "keys", "key": "main"}},
    {"model": MODEL, "cache": {"type": "PersistentVolumeClaim", "size": "20Gi"}},
    {"model": MODEL, "cache": {"type": "EmptyDir", "size": "20Gi"}},
    {"model": MODEL, "cache": {"type": "HostPath", "path": "/mnt/models"}},
    {"model": MODEL, "rollout": {"strategy": "Recreate", "drainSeconds": 0}},
    {"model": MODEL, "cache": {"type": "EmptyDir", "size": "1000000"}},
    {"model": MODEL, "cache": {"type": "EmptyDir", "size": "2T"}},
    {"model": MODEL, "cache": {"type": "HostPath", "path": "/" + "p" * 511}},
    {"model": MODEL, "rollout": {"drainSeconds": 86400}},
    {"model": MODEL, "rollout": {"maxSurge": 0}},
    {"model": MODEL, "rollout": {"maxSurge": 1000}},
    {"model": MODEL, "rollout": {"strategy": "RollingUpdate", "maxSurge": 1}},
    {"model": MODEL, "rollout": {"strategy": "Recreate"}},
    {"model": MODEL, "autoscaling": {"minReplicas": 0, "maxReplicas": 3, "scaleDownDelaySeconds": 0}},
    {"model": MODEL, "size": 10000},
    {"model": MODEL, "size": "99999.9999"},
    {"model": MODEL, "cache": {"type": "EmptyDir", "size": "1.5Gi"}},
    {"model": MODEL, "cache": {"type": "EmptyDir", "size": "500k"}},
    {"model": MODEL, "cache": {"type": "PersistentVolumeClaim", "claimName": "c" * 253}},
    {"model": MODEL, "args": ["x" * 1024] * 64},
    {"model": MODEL, "env": [{"name": f"A{number}", "value": "v" * 4096} for number in range(64)]},
    {"model": MODEL, "env": [{"name": "A" * 253, "valueFrom": {"configMapKeyRef": {"name": "n" * 253, "key": "k" * 253}}}]},
    {"model": MODEL, "imagePullSecrets": [{"name": f"s{number}"} for number in range(16)]},
    {"model": MODEL, "scheduling": {"nodeSelector": {f"k{number}": "v" * 63 for number in range(32)}}},
    {"model": MODEL, "scheduling": {"tolerations": [{"key": f"k{number}"} for number in range(32)]}},
    {"model": MODEL, "scheduling": {"priorityClassName": "p" * 253, "runtimeClassName": "r" * 253}},
    {"model": MODEL, "scheduling": {"tolerations": [{"key": "k" * 316, "value": "v" * 63, "tolerationSeconds": 0}]}},
    {"model": MODEL, "scheduling": {"affinity": {"nodeAffinity": {}, "podAffinity": {}, "podAntiAffinity": {}}}},
    {"model": MODEL, "imagePullSecrets": [{"name": "s" * 253}]},
    {"model": MODEL, "cache": {"type": "EmptyDir", "size": "1" * 32}},
    {"model": MODEL, "resources": {"requests": {f"r{number}": 1 for number in range(16)}}},
    {
        "model": MODEL,
        "autoscaling": {"minReplicas": 1000, "maxReplicas": 1000, "targetRequestsPerReplica": 100_000, "scaleDownDelaySeconds": 86400},
    },
    {"model": MODEL, "autoscaling": {"minReplicas": 1, "maxReplicas": 1, "targetRequestsPerReplica": 1, "scaleDownDelaySeconds": 0}},
    *[{"model": MODEL, "scheduling": {"tolerations": [{"operator": name, "key": "gpu"}]}} for name in ("Exists", "Equal")],
    *[{"model": MODEL, "scheduling": {"tolerations": [{"effect": name}]}} for name in ("NoSchedule", "PreferNoSchedule", "NoExecute")],
    {"model": MODEL, "scheduling": {"tolerations": [{"key": "gpu", "operator": "Exists"}], "affinity": {"nodeAffinity": {}}}},
    {"model": "m", "size": 1, "image": "i", "resourceProfile": "p", "servedModelName": "n", "device": "cuda", "quantization": "int8"},
    {"model": MODEL, "device": "cpu", "quantization": "int4", "suspend": True},
]


@pytest.mark.parametrize("spec", ACCEPTED, ids=[str(spec)[:80] for spec in ACCEPTED])
def test_what_is_accepted(namespace: Namespace, spec: dict[str, Any]):
    namespace.create(**spec)
    stored = namespace.get()["spec"]
    assert {key: stored[key] for key in spec if key != "rollout"} == {key: value for key, value in spec.items() if key != "rollout"}
    assert stored["rollout"] == stored["rollout"] | spec.get("rollout", {})


KEY = {"name": "n", "key": "k"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "spec.model: Required value"),
    ({"model": ""}, "spec.model"),
    ({"model": "s3://bucket/x"}, "model must be a catalogue name"),
    ({"model": "hf://only-org"}, "a hub model is written hf://org/repo"),
    ({"model": "hf://a/b/c"}, "a hub model is written hf://org/repo"),
    ({"model": "pvc://Claim/x"}, "a model on a claim is written pvc://claim/path"),
    ({"model": "file://models"}, "three slashes"),
    ({"model": "pvc://claim/../other"}, "may not contain .."),
    ({"model": "a b"}, "of letters, digits, dots, dashes and underscores"),
    ({"model": "a/b/c"}, "of letters, digits, dots, dashes and underscores"),
    ({"model": MODEL, "engine": "llama"}, 'supported values: "transformers"'),
    ({"model": MODEL, "size": "1_8"}, "size is in billions of parameters"),
    ({"model": MODEL, "size": "four"}, "size is in billions of parameters"),
    ({"model": MODEL, "size": 0}, "size is in billions of parameters"),
    ({"model": MODEL, "size": 10001}, "size is in billions of parameters"),
    *[
        ({"model": model, "size": 7}, 'spec.size: Invalid value: "object": size chooses among a catalogue model\'s sizes')
        for model in ("org/repo", "hf://org/repo", "pvc://claim", "pvc://claim/x", "file:///models/x", "oci://registry.example/model:1")
    ],
    ({"model": "org/repo", "size": "0.5"}, "means nothing for org/repo, pvc://, file:// and oci:// models: leave it out"),
    ({"model": "m" * 513}, "may not be more than 512"),
    ({"model": MODEL, "quantization": "int3"}, 'supported values: "none", "int8", "int4"'),
    ({"model": MODEL, "maxNumSeqs": 0}, "greater than or equal to 1"),
    ({"model": MODEL, "maxNumSeqs": 1025}, "less than or equal to 1024"),
    ({"model": MODEL, "maxModelLen": 15}, "greater than or equal to 16"),
    ({"model": MODEL, "maxModelLen": 10_000_001}, "less than or equal to 10000000"),
    ({"model": MODEL, "replicas": -1}, "greater than or equal to 0"),
    ({"model": MODEL, "replicas": 1001}, "less than or equal to 1000"),
    ({"model": MODEL, "servedModelName": ""}, "spec.servedModelName"),
    ({"model": MODEL, "servedModelName": "n" * 257}, "may not be more than 256"),
    ({"model": MODEL, "servedModelName": "-chat"}, "spec.servedModelName in body should match"),
    ({"model": MODEL, "servedModelName": "a chat"}, "spec.servedModelName in body should match"),
    ({"model": "o/r", "revision": ""}, "spec.revision"),
    ({"model": "o/r", "revision": "-x"}, "spec.revision in body should match"),
    ({"model": "o/r", "revision": "a b"}, "spec.revision in body should match"),
    ({"model": "o/r", "revision": "r" * 129}, "may not be more than 128"),
    ({"model": MODEL, "image": ""}, "spec.image"),
    ({"model": MODEL, "image": "i" * 513}, "may not be more than 512"),
    ({"model": MODEL, "resourceProfile": ""}, "spec.resourceProfile"),
    ({"model": MODEL, "resourceProfile": "p" * 64}, "may not be more than 63"),
    ({"model": MODEL, "device": "tpu"}, 'supported values: "auto", "cuda", "cpu"'),
    ({"model": MODEL, "startupTimeoutSeconds": 0}, "greater than or equal to 1"),
    ({"model": MODEL, "startupTimeoutSeconds": 86401}, "less than or equal to 86400"),
    *[
        ({"model": model, "revision": "v1"}, "revision pins a commit on the hub")
        for model in ("pvc://claim/x", "file:///models/x", "oci://registry.example/model:1")
    ],
    ({"model": MODEL, "env": [{"name": "A", "value": "1", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}, "not both"),
    ({"model": MODEL, "env": [{"name": "1A", "value": "1"}]}, "spec.env[0].name"),
    ({"model": MODEL, "hfTokenSecretRef": {"name": "hub"}}, "hfTokenSecretRef.key: Required value"),
    ({"model": MODEL, "cache": {"type": "PersistentVolumeClaim"}}, "needs claimName (an existing claim) or size (to make one)"),
    ({"model": MODEL, "cache": {"type": "Tape"}}, "cache.type"),
    ({"model": MODEL, "cache": {"size": "1Gi"}}, "cache.type: Required value"),
    ({"model": MODEL, "cache": {"type": "EmptyDir", "size": "1" * 33}}, "may not be more than 32"),
    ({"model": MODEL, "cache": {"type": "PersistentVolumeClaim", "claimName": ""}}, "cache.claimName"),
    ({"model": MODEL, "cache": {"type": "HostPath"}}, "cache of type HostPath needs path"),
    ({"model": MODEL, "cache": {"type": "HostPath", "path": "models"}}, "cache.path"),
    ({"model": MODEL, "cache": {"type": "EmptyDir", "path": "/x"}}, "cache.path belongs to type HostPath only"),
    ({"model": MODEL, "cache": {"type": "EmptyDir", "claimName": "x"}}, "cache.claimName belongs to type PersistentVolumeClaim only"),
    ({"model": MODEL, "rollout": {"strategy": "Canary"}}, 'supported values: "RollingUpdate", "Recreate"'),
    ({"model": MODEL, "cache": {"type": "HostPath", "path": "/" + "p" * 512}}, "may not be more than 512"),
    ({"model": MODEL, "cache": {"type": "EmptyDir", "size": "20 Gi"}}, "spec.cache.size in body should match"),
    ({"model": MODEL, "cache": {"type": "EmptyDir", "size": "lots"}}, "spec.cache.size in body should match"),
    ({"model": MODEL, "cache": {"type": "EmptyDir", "size": "-1"}}, "spec.cache.size in body should match"),
    ({"model": MODEL, "rollout": {"drainSeconds": -1}}, "greater than or equal to 0"),
    ({"model": MODEL, "rollout": {"drainSeconds": 86401}}, "less than or equal to 86400"),
    ({"model": MODEL, "rollout": {"maxSurge": -1}}, "greater than or equal to 0"),
    ({"model": MODEL, "rollout": {"maxSurge": 1001}}, "less than or equal to 1000"),
    *[
        ({"model": MODEL, "rollout": {"strategy": "Recreate", "maxSurge": surge}}, "maxSurge means nothing with strategy Recreate")
        for surge in (0, 1)
    ],
    ({"model": MODEL, "scheduling": {"tolerations": [{"operator": "In"}]}}, 'supported values: "Exists", "Equal"'),
    ({"model": MODEL, "scheduling": {"tolerations": [{"effect": "Never"}]}}, '"NoSchedule", "PreferNoSchedule", "NoExecute"'),
    ({"model": MODEL, "autoscaling": {"minReplicas": 3, "maxReplicas": 2}}, "minReplicas may not be above maxReplicas"),
    ({"model": MODEL, "resources": {"limits": {"memory": "lots"}}}, "spec.resources.limits.memory"),
    ({"model": MODEL, "args": ["x"] * 65}, "must have at most 64 items"),
    ({"model": MODEL, "args": ["x" * 1025]}, "may not be more than 1024"),
    ({"model": MODEL, "size": "100000"}, "size is in billions of parameters"),
    ({"model": MODEL, "cache": {"type": "EmptyDir", "size": "500K"}}, "spec.cache.size in body should match"),
    ({"model": MODEL, "cache": {"type": "PersistentVolumeClaim", "claimName": "c", "size": "1Gi"}}, "a claimName or path has its own size"),
    ({"model": MODEL, "cache": {"type": "HostPath", "path": "/x", "size": "1Gi"}}, "a claimName or path has its own size"),
    ({"model": MODEL, "cache": {"type": "PersistentVolumeClaim", "claimName": "c" * 254}}, "may not be more than 253"),
    ({"model": MODEL, "env": [{"name": f"A{number}"} for number in range(65)]}, "must have at most 64 items"),
    ({"model": MODEL, "env": [{"name": "A" * 254}]}, "may not be more than 253"),
    ({"model": MODEL, "env": [{"name": "A", "value": "v" * 4097}]}, "may not be more than 4096"),
    ({"model": MODEL, "env": [{"name": "A"}, {"name": "A"}]}, "Duplicate value"),
    ({"model": MODEL, "env": [{"name": "A", "valueFrom": {}}]}, "should have at least 1 properties"),
    ({"model": MODEL, "env": [{"name": "A", "valueFrom": {"secretKeyRef": KEY, "configMapKeyRef": KEY}}]}, "env[0].valueFrom: Too many"),
    ({"model": MODEL, "hfTokenSecretRef": {"name": "n" * 254, "key": "k"}}, "may not be more than 253"),
    ({"model": MODEL, "apiKeySecretRef": {"name": "n", "key": ""}}, "apiKeySecretRef.key"),
    ({"model": MODEL, "imagePullSecrets": [{"name": f"s{number}"} for number in range(17)]}, "must have at most 16 items"),
    ({"model": MODEL, "imagePullSecrets": [{"name": "s"}, {"name": "s"}]}, "Duplicate value"),
    ({"model": MODEL, "imagePullSecrets": [{}]}, "imagePullSecrets[0].name: Required value"),
    ({"model": MODEL, "imagePullSecrets": [{"name": ""}]}, "imagePullSecrets[0].name"),
    ({"model": MODEL, "imagePullSecrets": [{"name": "s" * 254}]}, "may not be more than 253"),
    ({"model": MODEL, "scheduling": {"tolerations": [{"key": "k" * 317}]}}, "may not be more than 316"),
    ({"model": MODEL, "scheduling": {"tolerations": [{"value": "v" * 64}]}}, "may not be more than 63"),
    ({"model": MODEL, "scheduling": {"affinity": {f"k{number}": {} for number in range(4)}}}, "must have at most 3 items"),
    ({"model": MODEL, "env": [{"value": "x"}]}, "env[0].name: Required value"),
    ({"model": MODEL, "hfTokenSecretRef": {"name": "n", "key": "k" * 254}}, "may not be more than 253"),
    ({"model": MODEL, "hfTokenSecretRef": {"name": "", "key": "k"}}, "hfTokenSecretRef.name"),
    ({"model": MODEL, "scheduling": {"priorityClassName": 7}}, "priorityClassName"),
    ({"model": MODEL, "suspend": "yes"}, "suspend"),
    ({"model": MODEL, "scheduling": {"nodeSelector": {f"k{number}": "v" for number in range(33)}}}, "must have at most 32 items"),
    ({"model": MODEL, "scheduling": {"nodeSelector": {"k": "v" * 64}}}, "may not be more than 63"),
    ({"model": MODEL, "scheduling": {"tolerations": [{"key": "k"}] * 33}}, "must have at most 32 items"),
    ({"model": MODEL, "scheduling": {"priorityClassName": "p" * 254}}, "may not be more than 253"),
    ({"model": MODEL, "scheduling": {"runtimeClassName": "r" * 254}}, "may not be more than 253"),
    ({"model": MODEL, "resources": {"requests": {f"r{number}": 1 for number in range(17)}}}, "must have at most 16 items"),
    ({"model": MODEL, "resources": {"requests": {"cpu": "1" * 33}}}, "may not be more than 32"),
    ({"model": MODEL, "autoscaling": {"minReplicas": 1}}, "autoscaling.maxReplicas: Required value"),
    ({"model": MODEL, "autoscaling": {"maxReplicas": 0}}, "greater than or equal to 1"),
    ({"model": MODEL, "autoscaling": {"maxReplicas": 1001}}, "less than or equal to 1000"),
    ({"model": MODEL, "autoscaling": {"minReplicas": -1, "maxReplicas": 1}}, "greater than or equal to 0"),
    ({"model": MODEL, "autoscaling": {"maxReplicas": 1, "targetRequestsPerReplica": 0}}, "greater than or equal to 1"),
    ({"model": MODEL, "autoscaling": {"maxReplicas": 1, "targetRequestsPerReplica": 100_001}}, "less than or equal to 100000"),
    ({"model": MODEL, "autoscaling": {"maxReplicas": 1, "scaleDownDelaySeconds": -1}}, "greater than or equal to 0"),
    ({"model": MODEL, "autoscaling": {"maxReplicas": 1, "scaleDownDelaySeconds": 86401}}, "less than or equal to 86400"),
    ({"model": MODEL, "autoscaling": {"minReplicas": 1001, "maxReplicas": 1000}}, "less than or equal to 1000"),
    ({"model": MODEL, "size": "0"}, "size is in billions of parameters"),
    ({"model": MODEL, "env": [{"name": ""}]}, "env[0].name"),
    ({"model": MODEL, "cache": {"type": "HostPath", "path": ""}}, "cache.path"),
    ({"model": MODEL, "resources": {"limits": {f"r{number}": 1 for number in range(17)}}}, "must have at most 16 items"),
    ({"model": MODEL, "resources": {"limits": {"cpu": "1" * 33}}}, "may not be more than 32"),
    *[
        ({"model": MODEL, "env": [{"name": "A", "valueFrom": {source: {**KEY, part: text}}}]}, f"valueFrom.{source}.{part}")
        for source in ("secretKeyRef", "configMapKeyRef")
        for part in ("name", "key")
        for text in ("", "x" * 254)
    ],
    ({"model": MODEL, "apiKeySecretRef": {"name": "", "key": "k"}}, "apiKeySecretRef.name"),
    ({"model": MODEL, "apiKeySecretRef": {"name": "n" * 254, "key": "k"}}, "may not be more than 253"),
]


@pytest.mark.parametrize(("spec", "said"), REFUSED, ids=[str(spec)[:60] for spec, _ in REFUSED])
def test_what_is_refused_and_in_which_words(namespace: Namespace, spec: dict[str, Any], said: str):
    with pytest.raises(RuntimeError) as refused:
        namespace.create(**spec)
    assert said in str(refused.value)


def test_the_size_of_a_made_claim_stays(namespace: Namespace):
    namespace.create(model=MODEL, cache={"type": "PersistentVolumeClaim", "size": "1Gi"})
    with pytest.raises(RuntimeError, match="edit the claim NAME-cache"):
        namespace.update(cache={"type": "PersistentVolumeClaim", "size": "2Gi"})
    namespace.update(cache=None)
    namespace.update(cache={"type": "PersistentVolumeClaim", "size": "2Gi"})
