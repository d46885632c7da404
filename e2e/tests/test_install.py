"""The chart: clean, accepted by the API server, and gone after uninstall except for the definition and everybody's models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from product import installation

from cluster.kubectl import CommandFailed, Kubectl, wait_for
from cluster.target import Cluster

CRD = "modeldeployments.serving.jitney.dev"
ACCOUNT = f"system:serviceaccount:{installation.NAMESPACE}:jitney-operator"


def test_lint_has_nothing_to_say(kubectl: Kubectl) -> None:
    assert "0 chart(s) failed" in kubectl.helm("lint", "--strict", str(installation.CHART))


@pytest.mark.parametrize("wrong", ["replica=2", "config.profiles.cpu.memry=1Gi", "config.profiles=null", "logLevel=loud"])
def test_a_wrong_value_is_refused(kubectl: Kubectl, wrong: str) -> None:
    with pytest.raises(CommandFailed, match="values"):
        kubectl.helm("template", str(installation.CHART), "--set", wrong)


@pytest.mark.parametrize("setting", ["replicas=2", "watchNamespaces={default}", "crds.enabled=false", "metrics.service=false"])
def test_the_api_server_accepts_every_object(kubectl: Kubectl, operator: None, setting: str) -> None:
    objects = kubectl.helm("template", "other", str(installation.CHART), "-n", installation.NAMESPACE, "--set", setting)
    kubectl("apply", "--dry-run=server", "--server-side", "--force-conflicts", "-f", "-", input=objects)


@pytest.mark.parametrize(("verb", "what"), [("list", "secrets"), ("create", "pods"), ("update", CRD), ("delete", "namespaces")])
def test_the_operator_may_do_no_more_than_it_needs(kubectl: Kubectl, operator: None, verb: str, what: str) -> None:
    with pytest.raises(CommandFailed):
        kubectl("auth", "can-i", verb, what, "--all-namespaces", f"--as={ACCOUNT}")


def test_the_operators_pod_is_a_restricted_one(kubectl: Kubectl, operator: None, namespace: str) -> None:
    """The test's namespace takes no other."""
    spec = kubectl.list("pods", installation.NAMESPACE)[0]["spec"]
    spec = {key: value for key, value in spec.items() if key not in ("nodeName", "serviceAccount", "serviceAccountName")}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator", "namespace": namespace}, "spec": spec}
    wait_for(lambda: kubectl.get("serviceaccount", "default", namespace), 30, "service account")
    kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(pod))
    spec["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(CommandFailed, match="restricted"):
        kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(pod))


def test_the_operator_is_refused_nothing(cluster: Cluster, kubectl: Kubectl, operator: None) -> None:
    """Nothing it asks for is missing from its roles; the API server's own record says so."""
    log = getattr(cluster, "audit_log", None)
    if log is None:
        pytest.skip("only the local cluster keeps an audit log here")
    since = min(pod["metadata"]["creationTimestamp"] for pod in kubectl.list("pods", installation.NAMESPACE))
    entries = [json.loads(line) for line in log.read_text().splitlines() if ACCOUNT in line]
    own = [entry for entry in entries if entry["user"]["username"] == ACCOUNT and entry["requestReceivedTimestamp"] >= since]
    assert own
    assert not {f"{entry['verb']} {entry['requestURI']}" for entry in own if _lacks_right(entry)}


def _lacks_right(entry: dict[str, Any]) -> bool:
    """Refused for its roles, not because a namespace is on its way out."""
    response = entry.get("responseStatus", {})
    return response.get("code") == 403 and "cannot" in response.get("message", "")


def test_uninstall_keeps_the_definition(cluster: Cluster, kubectl: Kubectl, apply, namespace: str) -> None:
    apply("kept", model="file:///nowhere", replicas=0)
    installation.uninstall(kubectl)
    try:
        assert kubectl.get("crd", CRD, installation.NAMESPACE)
        assert kubectl.get("mdep", "kept", namespace)
        assert not kubectl.list("deployments", installation.NAMESPACE)
        # Nobody is there to take a finalizer away: it must go by itself.
        kubectl("delete", "mdep", "kept", "-n", namespace, "--timeout=30s")
    finally:
        installation.install(cluster, kubectl)
