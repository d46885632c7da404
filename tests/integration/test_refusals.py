"""A cluster that does not take the children: the resource says why, nobody else suffers, and it goes on by itself once it can."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane
from support import children
from support.namespaces import Namespace
from support.operator import Operator
from support.proxy import Proxy

SMALL = {"model": "smollm2-instruct", "size": "0.135"}


def test_a_child_that_another_owner_took_over_is_left_to_it(plane: ControlPlane, namespace: Namespace, tmp_path: Path):
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log") as operator:
        namespace.create(**SMALL)
        operator.until(lambda: children.settled(namespace))
        own(namespace, "other-controller")
        namespace.kubectl("scale", "deployment", "chat", "--replicas=5")
        before = children.deployment(namespace)
        operator.until(lambda: namespace.reason() == "NameConflict")
        assert "A Deployment named chat exists in this namespace and is not ours" in namespace.condition("Accepted")["message"]
        assert namespace.condition("Stalled")["status"] == "True"
        namespace.update(maxNumSeqs=4)
        operator.until(lambda: namespace.get()["status"]["observedGeneration"] == 2)
        assert namespace.reason() == "NameConflict"
        assert children.deployment(namespace) == before
        own(namespace, None)
        operator.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 1)
        operator.until(lambda: namespace.condition("Accepted")["status"] == "True")


def own(namespace: Namespace, name: str | None) -> None:
    """Make a ConfigMap the only owner of the Deployment, and its controller; None leaves it without an owner."""
    owners = []
    if name:
        namespace.kubectl("create", "configmap", name)
        uid = namespace.kubectl("get", "configmap", name, "-o", "jsonpath={.metadata.uid}")
        owners = [{"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid, "controller": True}]
    namespace.kubectl("patch", "deployment", "chat", "--type=merge", "-p", json.dumps({"metadata": {"ownerReferences": owners}}))


CACHE = {"type": "PersistentVolumeClaim", "size": "1Gi"}


@pytest.mark.parametrize("grows", [True, False])
def test_a_cache_that_comes_back_bigger(plane: ControlPlane, namespace: Namespace, tmp_path: Path, grows: bool):
    """Its claim has stayed. It grows where its storage can, and else the server says why it cannot."""
    storage = {"provisioner": "example.com/none", "allowVolumeExpansion": grows, "metadata": {"name": namespace.name}}
    body = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", **storage}
    namespace.kubectl("create", "-f", "-", input=json.dumps(body))
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log") as operator:
        namespace.create(**SMALL, cache=CACHE)
        operator.until(lambda: children.settled(namespace))
        bind(namespace, "chat-cache")
        namespace.update(cache=None)
        operator.until(lambda: namespace.get()["status"]["observedGeneration"] == 2)
        namespace.update(cache=CACHE | {"size": "2Gi"})
        operator.until(lambda: namespace.get()["status"]["observedGeneration"] == 3)
        asked = namespace.kubectl("get", "pvc", "chat-cache", "-o", "jsonpath={.spec.resources.requests.storage}")
        assert (asked, namespace.condition("Accepted")["status"]) == (("2Gi", "True") if grows else ("1Gi", "False"))
        if not grows:
            assert "the storageclass that provisions the pvc must support resize" in namespace.condition("Accepted")["message"]
    namespace.kubectl("delete", "storageclass", namespace.name)


def bind(namespace: Namespace, claim: str) -> None:
    """As the controllers of a cluster would: of the namespace's own StorageClass."""
    namespace.kubectl("patch", "pvc", claim, "--type=merge", "-p", json.dumps({"spec": {"storageClassName": namespace.name}}))
    status = {"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"]}}
    namespace.kubectl("patch", "pvc", claim, "--subresource=status", "--type=merge", "-p", json.dumps(status))


def test_a_namespace_that_is_going_away(proxy: Proxy, namespace: Namespace, tmp_path: Path):
    """Nothing can be made there any more. No controller empties it here, so it stays like that."""
    leaving = Namespace(namespace.plane, f"{namespace.name}-leaving")
    namespace.plane.kubectl("create", "namespace", leaving.name)
    leaving.create(**SMALL)
    namespace.plane.kubectl("delete", "namespace", leaving.name, "--wait=false")
    watched = {"JITNEY_WATCH_NAMESPACES": f"{namespace.name},{leaving.name}"}
    with Operator(proxy.kubeconfig, namespace.name, tmp_path / "log", **watched) as operator:
        operator.until(lambda: leaving.reason() == "ChildRefused")
        assert "because it is being terminated" in leaving.condition("Accepted")["message"]
        namespace.create(**SMALL)
        operator.until(lambda: children.settled(namespace))
        begun = time.monotonic()
        time.sleep(6)
        tried = [str(seen) for seen in proxy.since(begun) if seen.writes and f"/{leaving.name}/" in seen.path]
        assert len(tried) < 6, "refused writes are not repeated without pause"
        assert not [line for line in tried if "/status" in line], "that it fails again is no news"
    assert not leaving.kubectl("get", "deployments,services", "-o", "name")


def test_an_admission_that_does_not_answer_is_named(plane: ControlPlane, namespace: Namespace, tmp_path: Path):
    """The server calls that an internal error of its own, and it may last for ever."""
    rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]}
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace.name}}
    hook = {"name": "gone.example.com", "rules": [rule], "namespaceSelector": here, "clientConfig": {"url": "https://127.0.53.99:9/"}}
    hook |= {"sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Fail", "timeoutSeconds": 5}
    body = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration", "webhooks": [hook]}
    namespace.kubectl("create", "-f", "-", input=json.dumps({**body, "metadata": {"name": namespace.name}}))
    # It takes the server a moment to heed it.
    deadline = time.monotonic() + 20
    while not refuses(namespace):
        assert time.monotonic() < deadline, "the server does not ask the webhook"
        time.sleep(0.2)
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log") as operator:
        namespace.create(**SMALL)
        operator.until(lambda: namespace.reason() == "ChildRefused")
        assert 'failed calling webhook "gone.example.com"' in namespace.condition("Accepted")["message"]
        namespace.kubectl("delete", "validatingwebhookconfiguration", namespace.name)
        operator.until(lambda: children.settled(namespace), 40)
        operator.until(lambda: namespace.condition("Accepted")["status"] == "True")


def refuses(namespace: Namespace) -> bool:
    try:
        namespace.kubectl("create", "deployment", "try", "--image=x", "--dry-run=server")
    except RuntimeError:
        return True
    return False


@pytest.mark.parametrize("plural", ["services", "deployments.apps"])
def test_a_quota_that_forbids_a_child_is_named(plane: ControlPlane, namespace: Namespace, tmp_path: Path, plural: str):
    forbid(namespace, f"count/{plural}", "stingy")
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log") as operator:
        namespace.create(**SMALL)
        operator.until(lambda: namespace.reason() == "ChildRefused")
        assert "exceeded quota: stingy" in namespace.condition("Accepted")["message"]
        assert not namespace.condition("Stalled"), "there may be room again"
        assert not namespace.kubectl("get", "deployments", "-o", "name")
        namespace.kubectl("delete", "resourcequota", "stingy")
        operator.until(lambda: children.settled(namespace), 40)
        operator.until(lambda: namespace.condition("Accepted")["status"] == "True")


def forbid(namespace: Namespace, what: str, name: str) -> None:
    """A quota of none, with the status that its controller would write."""
    namespace.kubectl("create", "quota", name, f"--hard={what}=0")
    status = {"status": {"hard": {what: "0"}, "used": {what: "0"}}}
    namespace.kubectl("patch", "resourcequota", name, "--subresource=status", "--type=merge", "-p", json.dumps(status))


def test_a_pod_that_its_node_will_not_have(plane: ControlPlane, namespace: Namespace, tmp_path: Path):
    """Another is made at once and starts as if nothing had been: until it is ready, why it had to be made counts."""
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log") as operator:
        namespace.create(**SMALL)
        operator.until(lambda: children.settled(namespace))
        children.make_pod(namespace, "chat-9")
        # As a kubelet of 1.34 writes it.
        words = "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
        refused = {"phase": "Failed", "reason": "NodeAffinity", "message": words, "startTime": datetime.now(UTC).isoformat()}
        children.set_container(namespace, {}, "chat-9", **refused)
        children.make_pod(namespace, "chat-1")
        operator.until(lambda: namespace.reason() == "PodEvicted")
        assert namespace.condition("Scheduled")["status"] == "False"
        assert words in namespace.condition("Scheduled")["message"]
        failure = namespace.get()["status"]["lastFailure"]
        assert (failure["reason"], failure["pod"]) == ("PodEvicted", "chat-9")
        assert "container" not in failure, "it is the pod that was refused"
        children.finish_rollout(namespace)
        operator.until(lambda: namespace.reason() == "Ready")
        assert namespace.condition("Scheduled")["reason"] == "Placed"
