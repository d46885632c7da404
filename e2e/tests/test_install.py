"""The chart: clean, accepted by the API server, and gone after uninstall except for the definition and everybody's models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from product import installation, resource
from product.restricted import assert_restricted

from cluster.kubectl import CommandFailed, Kubectl
from cluster.target import Cluster

CRD = "modeldeployments.serving.jitney.dev"
ACCOUNT = f"system:serviceaccount:{installation.NAMESPACE}:jitney-operator"


@pytest.mark.parametrize("values", ["replicas=1", "gateway.enabled=true"])
def test_lint_has_nothing_to_say(kubectl: Kubectl, values: str) -> None:
    assert "0 chart(s) failed" in kubectl.helm("lint", "--strict", str(installation.CHART), "--set", values)


@pytest.mark.parametrize(
    "wrong",
    [
        "replica=2",
        "config.profiles.cpu.memry=1Gi",
        "config.profiles=null",
        "logLevel=loud",
        "gateway.port=1",
        "gateway.limits.maxRequests=0",
        "config.wakeNamespaces=everywhere",
        "config.hubEndpoint=hub.example",
        "config.runtimImage=x",
    ],
)
def test_a_wrong_value_is_refused(kubectl: Kubectl, wrong: str) -> None:
    with pytest.raises(CommandFailed, match="values"):
        kubectl.helm("template", str(installation.CHART), "--set", wrong)


@pytest.mark.parametrize(
    "setting",
    [
        "replicas=2",
        "watchNamespaces={default}",
        "crds.enabled=false",
        "metrics.service=false",
        "gateway.enabled=true",
        # A namespace of its own, and another one whose models it serves, with the roles of both.
        "gateway.enabled=true,gateway.namespace=kube-public,gateway.namespaces={default},gateway.keysSecret=keys",
    ],
)
def test_the_api_server_accepts_every_object(kubectl: Kubectl, operator: None, setting: str) -> None:
    objects = kubectl.helm("template", "other", str(installation.CHART), "-n", installation.NAMESPACE, "--set", setting)
    kubectl("apply", "--dry-run=server", "--server-side", "--force-conflicts", "-f", "-", input=objects)


@pytest.mark.parametrize(("verb", "what"), [("list", "secrets"), ("create", "pods"), ("update", CRD), ("delete", "namespaces")])
def test_the_operator_may_do_no_more_than_it_needs(kubectl: Kubectl, operator: None, verb: str, what: str) -> None:
    with pytest.raises(CommandFailed):
        kubectl("auth", "can-i", verb, what, "--all-namespaces", f"--as={ACCOUNT}")


def test_the_operators_pod_is_a_restricted_one(kubectl: Kubectl, operator: None, namespace: str) -> None:
    assert_restricted(kubectl, kubectl.list("pods", installation.NAMESPACE)[0], namespace)


def test_it_keeps_to_the_namespaces_that_it_is_given(cluster: Cluster, kubectl: Kubectl, apply, namespace: str) -> None:
    """With Roles there and no ClusterRole; that they are enough is seen in the record (test_verbs)."""
    installation.stop(kubectl)
    installation.install(cluster, kubectl, installation.VALUES, "--set", f"watchNamespaces={{{namespace}}}")
    try:
        assert not kubectl.get("clusterrole", "jitney-operator")
        outside = {"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": "outside"}}
        kubectl.apply({**outside, "spec": {"model": "file:///nowhere", "replicas": 0}})
        apply("inside", model="file:///nowhere", replicas=0)
        resource.wait_ready(kubectl, "inside", 60, namespace)
        assert (kubectl.get("mdep", "outside") or {})["status"]["observedGeneration"] == 0
    finally:
        kubectl("delete", "mdep", "outside", "--ignore-not-found")
        installation.stop(kubectl)
        installation.install(cluster, kubectl)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"image": "elsewhere/x:1"}, "does not allow the image elsewhere/x:1"),
        ({"env": [{"name": "SECRET", "value": "x"}]}, "does not allow the variable SECRET"),
        ({"args": ["--trust-remote-code"]}, "code from a model's repository"),
        ({"cache": {"type": "HostPath", "path": "/etc"}}, "does not allow the node's folder /etc"),
    ],
)
def test_what_the_administrators_values_do_not_allow(
    strict: None, apply, kubectl: Kubectl, namespace: str, spec: dict[str, Any], said: str
) -> None:
    apply("wish", model="file:///nowhere", replicas=0, **spec)
    seen = resource.wait_until(kubectl, "wish", "NotAllowed", lambda seen: seen["status"].get("reason") == "NotAllowed", 30, namespace)
    assert said in (resource.condition(seen, "Accepted") or {})["message"]
    assert not kubectl.get("deployment", "wish", namespace)


@pytest.fixture(scope="module")
def strict(cluster: Cluster, kubectl: Kubectl) -> Iterator[None]:
    """Values that allow next to nothing."""
    narrow = ("config.allow.images={registry.example/*}", "config.allow.env={HF_*}", "config.allow.trustRemoteCode=false")
    installation.install(cluster, kubectl, installation.VALUES, *(word for value in narrow for word in ("--set", value)))
    yield
    installation.install(cluster, kubectl)


def test_uninstall_keeps_the_definition(cluster: Cluster, kubectl: Kubectl, apply, namespace: str) -> None:
    apply("kept", model="file:///nowhere", replicas=0)
    # What it still has to say would be refused once its rights are gone.
    resource.wait_ready(kubectl, "kept", 60, namespace)
    installation.uninstall(kubectl)
    try:
        assert kubectl.get("crd", CRD, installation.NAMESPACE)
        assert kubectl.get("mdep", "kept", namespace)
        assert not kubectl.list("deployments", installation.NAMESPACE)
        # Nobody is there to take a finalizer away: it must go by itself.
        kubectl("delete", "mdep", "kept", "-n", namespace, "--timeout=30s")
    finally:
        installation.install(cluster, kubectl)
