"""Pods that the cluster, a node or its container runtime will not have: the resource says who refused, and in whose words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from product.resource import condition
from product.situations import REFUSED, Knows, Situation, told

from cluster.kubectl import Kubectl, wait_for

OVER = Knows("pods", lambda pod: pod["status"].get("phase") == "Failed", of_a_pod=True)


def test_a_pod_that_a_policy_forbids(apply: Callable[..., None], situation: Situation) -> None:
    """A folder of the node, which the administrator's values allow and Pod Security in this namespace does not."""
    apply("shelf", model="file:///nowhere", cache={"type": "HostPath", "path": "/var/tmp/jitney-e2e/never-made"})
    seen = situation("pod refused by a policy", "shelf", REFUSED, "Scheduled", "PolicyDenied")
    message = (condition(seen, "Scheduled") or {})["message"]
    assert 'violates PodSecurity "restricted:latest"' in message
    assert "hostPath" in message
    assert not {"pod", "container"} & set(seen["status"]["lastFailure"]), "there was none"


@pytest.fixture
def runtime_class(kubectl: Kubectl, namespace: str) -> Iterator[str]:
    """The name of one whose handler no node has."""
    name = f"nowhere-{namespace}"
    kubectl.apply({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": "nowhere"})
    yield name
    kubectl("delete", "runtimeclass", name)


def test_a_pod_whose_sandbox_cannot_be_made(apply: Callable[..., None], situation: Situation, runtime_class: str) -> None:
    """Kubernetes tells it in an Event; the pod's own status says ContainerCreating, as on a good day."""
    apply("boxless", model="file:///nowhere", scheduling={"runtimeClassName": runtime_class})
    seen = situation("sandbox cannot be made", "boxless", told("FailedCreatePodSandBox"), "ModelLoaded", "SandboxFailed")
    assert 'no runtime for "nowhere" is configured' in (condition(seen, "ModelLoaded") or {})["message"]
    failure = seen["status"]["lastFailure"]
    assert failure["pod"].startswith("boxless-")
    assert "container" not in failure, "none was made"


def test_a_pod_that_its_node_will_not_have(apply: Callable[..., None], situation: Situation, kubectl: Kubectl, namespace: str) -> None:
    """Bound by a scheduler that knows less than the node; nobody binds the one that is made in its place."""
    apply("unwanted", model="file:///nowhere", resourceProfile="by-hand", scheduling={"nodeSelector": {"jitney.dev/no-such-node": "yes"}})
    (pod,) = wait_for(lambda: kubectl.list("pods", namespace), 60, "pod of unwanted")
    assert pod["spec"]["schedulerName"] == "by-hand"
    name, node = pod["metadata"]["name"], kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    target = {"apiVersion": "v1", "kind": "Node", "name": node}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
    kubectl("create", f"--raw=/api/v1/namespaces/{namespace}/pods/{name}/binding", "-f", "-", input=json.dumps(binding))
    seen = situation("pod evicted", "unwanted", OVER, "Scheduled", "PodEvicted")
    assert seen["status"]["lastFailure"]["pod"] == name
    assert "Predicate NodeAffinity failed" in (condition(seen, "Scheduled") or {})["message"]
