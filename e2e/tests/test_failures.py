"""What goes wrong is named on the resource, within seconds of Kubernetes knowing it."""

from __future__ import annotations

from typing import Any

from product.resource import condition
from product.situations import ENDED, LABEL, REFUSED, UNPLACED, Knows, Situation, told, waiting

from cluster.kubectl import Kubectl, wait_for


def test_a_model_that_does_not_exist(apply, situation: Situation, kubectl: Kubectl, namespace: str) -> None:
    apply("nowhere", model="file:///nowhere")
    seen = situation("model not found", "nowhere", ENDED, "ModelLoaded", "ModelNotFound")
    failure = seen["status"]["lastFailure"]
    assert failure["exitCode"] == 10
    assert "/nowhere" in condition(seen, "ModelLoaded")["message"]


def test_a_pod_that_uses_more_memory_than_its_limit(apply, situation: Situation, model: str, kubectl: Kubectl, namespace: str) -> None:
    """The kernel kills it: the interpreter and torch fit, the weights do not."""
    apply("hungry", model=model, resources={"requests": {"cpu": "100m", "memory": "600Mi"}, "limits": {"memory": "600Mi"}})
    seen = situation("memory limit exceeded", "hungry", ENDED, "ModelLoaded", "OutOfMemory")
    assert seen["status"]["lastFailure"]["exitCode"] == 137
    assert "more memory than its limit" in condition(seen, "ModelLoaded")["message"]


def test_a_crash_loop_shows_the_last_words(apply, situation: Situation, model: str, kubectl: Kubectl, namespace: str) -> None:
    apply("crashing", model=model, args=["--no-such-flag"])
    seen = situation("crash loop", "crashing", ENDED, "ModelLoaded", "CrashLoop")
    assert seen["status"]["lastFailure"]["exitCode"] == 2
    assert "--no-such-flag" in condition(seen, "ModelLoaded")["message"]
    described = kubectl("describe", "mdep", "crashing", "-n", namespace)
    assert "--no-such-flag" in described.split("Events:")[1]


def test_an_image_that_does_not_exist(apply, situation: Situation, kubectl: Kubectl, namespace: str) -> None:
    apply("noimage", model="file:///nowhere", image="registry.invalid/none/such:1")
    seen = situation("registry has no such host", "noimage", waiting("ErrImagePull", "ImagePullBackOff"), "ModelLoaded", "ImagePullError")
    message = condition(seen, "ModelLoaded")["message"]
    assert message.startswith("The registry of the image registry.invalid/none/such:1 cannot be reached from the node")


def test_a_pod_that_no_node_takes(apply, situation: Situation, kubectl: Kubectl, namespace: str) -> None:
    apply("homeless", model="file:///nowhere", scheduling={"nodeSelector": {"jitney.dev/no-such-node": "yes"}})
    seen = situation("no node matches", "homeless", UNPLACED, "Scheduled", "Unschedulable")
    message = condition(seen, "Scheduled")["message"]
    assert "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector" in message


def test_more_memory_than_any_node_has(apply, situation: Situation, kubectl: Kubectl, namespace: str) -> None:
    apply("huge", model="file:///nowhere", resources={"requests": {"memory": "900Gi"}, "limits": {"memory": "900Gi"}})
    seen = situation("not enough memory on any node", "huge", UNPLACED, "Scheduled", "InsufficientMemory")
    assert "0/1 nodes are available: 1 Insufficient memory" in condition(seen, "Scheduled")["message"]


def test_a_secret_that_is_not_there(apply, situation: Situation, kubectl: Kubectl, namespace: str) -> None:
    apply("secretless", model="hf://a/b", hfTokenSecretRef={"name": "hub-token", "key": "token"})
    # Before it has asked the server the kubelet has the same reason, with other words.
    knows = waiting("CreateContainerConfigError", words="not found")
    seen = situation("Secret missing", "secretless", knows, "ModelLoaded", "SecretNotFound")
    assert 'secret "hub-token" not found' in condition(seen, "ModelLoaded")["message"]


def test_a_claim_that_is_not_there(apply, situation: Situation, kubectl: Kubectl, namespace: str) -> None:
    apply("claimless", model="pvc://nowhere/model")
    seen = situation("claim missing", "claimless", UNPLACED, "ModelLoaded", "ClaimNotFound")
    assert "There is no PersistentVolumeClaim nowhere here" in condition(seen, "ModelLoaded")["message"]


def test_a_volume_that_cannot_be_mounted(apply, situation: Situation, kubectl: Kubectl, namespace: str) -> None:
    """Kubernetes tells it in an Event; the pod's own status says ContainerCreating, as on a good day."""
    name = f"nofolder-{namespace}"
    shared = {"storageClassName": "", "accessModes": ["ReadOnlyMany"]}
    size = {"storage": "1Gi"}
    source = {"hostPath": {"path": "/nowhere/at/all", "type": "Directory"}, "claimRef": {"namespace": namespace, "name": "nofolder"}}
    volume = {"capacity": size, "persistentVolumeReclaimPolicy": "Retain", **source, **shared}
    claim = {"volumeName": name, "resources": {"requests": size}, **shared}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "nofolder", "namespace": namespace}, "spec": claim},
    )
    apply("mountless", model="pvc://nofolder/model")
    seen = situation("volume cannot be mounted", "mountless", told("FailedMount"), "ModelLoaded", "MountFailed")
    assert "/nowhere/at/all is not a directory" in condition(seen, "ModelLoaded")["message"]
    kubectl("delete", "pv", name, "--wait=false")


def test_a_quota_that_is_used_up(apply, situation: Situation, kubectl: Kubectl, namespace: str) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small", "namespace": namespace}}
    kubectl.apply({**quota, "spec": {"hard": {"pods": "0"}}})
    apply("toomuch", model="file:///nowhere")
    seen = situation("quota used up", "toomuch", REFUSED, "Scheduled", "QuotaExceeded")
    assert "exceeded quota: small" in condition(seen, "Scheduled")["message"]
    assert not {"pod", "container"} & set(seen["status"]["lastFailure"]), "there was none"
    kubectl("delete", "resourcequota", "small", "-n", namespace)


def test_a_name_that_is_taken(apply, situation: Situation, kubectl: Kubectl, namespace: str) -> None:
    ports = [{"port": 80}]
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken", "namespace": namespace}, "spec": {"ports": ports}}
    kubectl.apply(service)
    apply("taken", model="file:///nowhere", replicas=0)
    seen = situation("name taken", "taken", Knows("modeldeployments", lambda found: True), "Accepted", "NameConflict")
    assert "A Service named taken exists" in condition(seen, "Accepted")["message"]


def test_a_gpu_pod_without_a_node_that_has_one(apply, situation: Situation, kubectl: Kubectl, namespace: str) -> None:
    apply("nogpu", model="file:///nowhere", resourceProfile="nvidia-gpu", resources={"requests": {"cpu": "100m", "memory": "256Mi"}})
    seen = situation("no free GPU", "nogpu", UNPLACED, "Scheduled", "InsufficientGPU")
    assert "0/1 nodes are available: 1 Insufficient nvidia.com/gpu" in condition(seen, "Scheduled")["message"]


def test_a_gpu_pod_that_finds_no_cuda(
    apply, situation: Situation, model: str, gpu_on_paper: None, kubectl: Kubectl, namespace: str
) -> None:
    small = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}}
    apply("nocuda", model=model, resourceProfile="nvidia-gpu", resources=small)
    pod = _pod(kubectl, namespace, "nocuda")
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    seen = situation("no CUDA device", "nocuda", ENDED, "ModelLoaded", "DeviceNotFound")
    assert seen["status"]["lastFailure"]["exitCode"] == 16


def _pod(kubectl: Kubectl, namespace: str, name: str) -> dict[str, Any]:
    def first() -> dict[str, Any] | None:
        return next(iter(kubectl.list("pods", namespace, "-l", f"{LABEL}={name}")), None)

    return wait_for(first, 60, f"pod of {name}")
