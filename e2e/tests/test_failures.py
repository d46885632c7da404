"""What goes wrong is named on the resource, within seconds of Kubernetes knowing it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from product import trouble
from product.resource import condition
from product.trouble import POD

from cluster.kubectl import Kubectl, wait_for


def test_a_model_that_does_not_exist(apply, kubectl: Kubectl, namespace: str) -> None:
    apply("nowhere", model="file:///nowhere")
    known = trouble.known(kubectl, namespace, "nowhere", lambda pod: trouble.terminated(pod) is not None)
    seen = trouble.reported(kubectl, namespace, "nowhere", "ModelLoaded", {"ModelNotFound"}, known)
    failure = seen["status"]["lastFailure"]
    assert failure["exitCode"] == 10
    assert "/nowhere" in condition(seen, "ModelLoaded")["message"]


def test_a_pod_that_uses_more_memory_than_its_limit(apply, model: str, kubectl: Kubectl, namespace: str) -> None:
    """The kernel kills it: the interpreter and torch fit, the weights do not."""
    apply("hungry", model=model, resources={"requests": {"cpu": "100m", "memory": "600Mi"}, "limits": {"memory": "600Mi"}})
    known = trouble.known(kubectl, namespace, "hungry", lambda pod: trouble.terminated(pod) is not None)
    seen = trouble.reported(kubectl, namespace, "hungry", "ModelLoaded", {"OutOfMemory"}, known)
    assert seen["status"]["lastFailure"]["exitCode"] == 137
    assert "more memory than its limit" in condition(seen, "ModelLoaded")["message"]


def test_a_crash_loop_shows_the_last_words(apply, model: str, kubectl: Kubectl, namespace: str) -> None:
    apply("crashing", model=model, args=["--no-such-flag"])
    known = trouble.known(kubectl, namespace, "crashing", lambda pod: trouble.terminated(pod) is not None)
    seen = trouble.reported(kubectl, namespace, "crashing", "ModelLoaded", {"CrashLoop"}, known)
    assert seen["status"]["lastFailure"]["exitCode"] == 2
    assert "--no-such-flag" in condition(seen, "ModelLoaded")["message"]
    described = kubectl("describe", "mdep", "crashing", "-n", namespace)
    assert "--no-such-flag" in described.split("Events:")[1]


def test_an_image_that_does_not_exist(apply, kubectl: Kubectl, namespace: str) -> None:
    apply("noimage", model="file:///nowhere", image="registry.invalid/none/such:1")
    known = trouble.known(kubectl, namespace, "noimage", lambda pod: trouble.waiting(pod) in ("ErrImagePull", "ImagePullBackOff"))
    seen = trouble.reported(kubectl, namespace, "noimage", "ModelLoaded", {"ImagePullError"}, known)
    assert "registry.invalid/none/such:1" in condition(seen, "ModelLoaded")["message"]


def test_a_pod_that_no_node_takes(apply, kubectl: Kubectl, namespace: str) -> None:
    apply("homeless", model="file:///nowhere", scheduling={"nodeSelector": {"jitney.dev/no-such-node": "yes"}})
    known = trouble.known(kubectl, namespace, "homeless", trouble.unschedulable)
    seen = trouble.reported(kubectl, namespace, "homeless", "Scheduled", {"Unschedulable"}, known)
    assert "node" in condition(seen, "Scheduled")["message"]


def test_more_memory_than_any_node_has(apply, kubectl: Kubectl, namespace: str) -> None:
    apply("huge", model="file:///nowhere", resources={"requests": {"memory": "900Gi"}, "limits": {"memory": "900Gi"}})
    known = trouble.known(kubectl, namespace, "huge", trouble.unschedulable)
    trouble.reported(kubectl, namespace, "huge", "Scheduled", {"InsufficientMemory"}, known)


def test_a_secret_that_is_not_there(apply, kubectl: Kubectl, namespace: str) -> None:
    apply("secretless", model="hf://a/b", hfTokenSecretRef={"name": "hub-token", "key": "token"})
    known = trouble.known(kubectl, namespace, "secretless", lambda pod: trouble.waiting(pod) == "CreateContainerConfigError")
    seen = trouble.reported(kubectl, namespace, "secretless", "ModelLoaded", {"SecretNotFound"}, known)
    assert 'secret "hub-token" not found' in condition(seen, "ModelLoaded")["message"]


def test_a_claim_that_is_not_there(apply, kubectl: Kubectl, namespace: str) -> None:
    apply("claimless", model="pvc://nowhere/model")
    known = trouble.known(kubectl, namespace, "claimless", trouble.unschedulable)
    seen = trouble.reported(kubectl, namespace, "claimless", "ModelLoaded", {"ClaimNotFound"}, known)
    assert "There is no PersistentVolumeClaim nowhere here" in condition(seen, "ModelLoaded")["message"]


def test_a_quota_that_is_used_up(apply, kubectl: Kubectl, namespace: str) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small", "namespace": namespace}}
    kubectl.apply({**quota, "spec": {"hard": {"pods": "0"}}})
    apply("toomuch", model="file:///nowhere")
    known = trouble.since(lambda: _refused(kubectl, namespace, "toomuch"), "a pod that cannot be made")
    seen = trouble.reported(kubectl, namespace, "toomuch", "Scheduled", {"QuotaExceeded"}, known)
    assert "exceeded quota: small" in condition(seen, "Scheduled")["message"]
    kubectl("delete", "resourcequota", "small", "-n", namespace)


def _refused(kubectl: Kubectl, namespace: str, name: str) -> bool:
    conditions = ((kubectl.get("deployment", name, namespace) or {}).get("status") or {}).get("conditions") or []
    return any(entry["type"] == "ReplicaFailure" and entry["status"] == "True" for entry in conditions)


def test_a_gpu_pod_without_a_node_that_has_one(apply, kubectl: Kubectl, namespace: str) -> None:
    apply("nogpu", model="file:///nowhere", resourceProfile="nvidia-gpu", resources={"requests": {"cpu": "100m", "memory": "256Mi"}})
    known = trouble.known(kubectl, namespace, "nogpu", trouble.unschedulable)
    trouble.reported(kubectl, namespace, "nogpu", "Scheduled", {"InsufficientGPU"}, known)


def test_a_gpu_pod_that_finds_no_cuda(apply, model: str, gpu_on_paper: None, kubectl: Kubectl, namespace: str) -> None:
    small = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}}
    apply("nocuda", model=model, resourceProfile="nvidia-gpu", resources=small)
    pod = _pod(kubectl, namespace, "nocuda")
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    known = trouble.known(kubectl, namespace, "nocuda", lambda pod: trouble.terminated(pod) is not None)
    seen = trouble.reported(kubectl, namespace, "nocuda", "ModelLoaded", {"DeviceNotFound"}, known)
    assert seen["status"]["lastFailure"]["exitCode"] == 16


@pytest.fixture
def gpu_on_paper(kubectl: Kubectl) -> Iterator[None]:
    """A node that claims one GPU and has none: the scheduler places the pod, the kubelet runs it."""
    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    for operation in ("add", "remove"):
        value = {"value": "1"} if operation == "add" else {}
        patch = [{"op": operation, "path": f"/status/{part}/nvidia.com~1gpu", **value} for part in ("capacity", "allocatable")]
        kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps(patch))
        if operation == "add":
            yield


def _pod(kubectl: Kubectl, namespace: str, name: str) -> dict[str, Any]:
    def first() -> dict[str, Any] | None:
        return next(iter(kubectl.list("pods", namespace, "-l", f"{POD}={name}")), None)

    return wait_for(first, 60, f"pod of {name}")
