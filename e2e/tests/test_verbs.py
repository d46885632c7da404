"""Least privilege, both ways: the operator uses every right that the chart gives it, and asks for none that it lacks.

Runs last (files run in order of their names), on the API server's own record of the whole suite.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from product import installation
from product.eye import Eye

from cluster.kubectl import Kubectl
from cluster.target import Cluster

ACCOUNT = f"system:serviceaccount:{installation.NAMESPACE}:jitney-operator"
Right = tuple[str, str, str]
# Granted and not seen in the record, each with its reason.
NAMED_EXCEPTIONS: dict[Right, str] = {
    ("serving.jitney.dev", "modeldeployments/finalizers", "update"): "asked for by admission when a child names its owner; never a request",
}


def test_every_right_is_used_and_none_is_missing(cluster: Cluster, kubectl: Kubectl, operator: None) -> None:
    own = [entry for entry in _record(cluster) if "objectRef" in entry]
    used = {right for entry in own if entry.get("responseStatus", {}).get("code") != 403 for right in _rights(entry)}
    granted = _granted(kubectl)
    print(
        f"\n{len(granted)} rights, {len(own)} requests",
        *sorted(" ".join(filter(None, right)) for right in granted - used),
        sep="\n  not seen: ",
    )
    assert used <= granted
    assert granted - used == set(NAMED_EXCEPTIONS) & granted


def test_the_operator_is_refused_nothing(cluster: Cluster, kubectl: Kubectl, eye: Eye) -> None:
    """Neither with a ClusterRole nor with the Roles of some namespaces did it ask for what it has no right to."""
    # Who leaves with an uninstall may find its rights gone a moment before it is told.
    left = {pod["metadata"]["name"]: _told_to_leave(pod) for pod in eye.seen("pods") if "deletionTimestamp" in pod["metadata"]}
    own = [entry for entry in _record(cluster) if _moment(entry["requestReceivedTimestamp"]) < left.get(_pod(entry), FOREVER)]
    assert not {f"{entry['verb']} {entry['requestURI']}" for entry in own if _lacks_right(entry)}


FOREVER = datetime.max.replace(tzinfo=UTC)


def _told_to_leave(pod: dict[str, Any]) -> datetime:
    """Kubernetes notes when it is to be gone, in whole seconds."""
    metadata = pod["metadata"]
    return _moment(metadata["deletionTimestamp"]) - timedelta(seconds=metadata.get("deletionGracePeriodSeconds", 0) + 2)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _pod(entry: dict[str, Any]) -> str:
    return str(entry["user"]["extra"]["authentication.kubernetes.io/pod-name"][0])


def _record(cluster: Cluster) -> list[dict[str, Any]]:
    """Everything the operator asked the API server for, in the whole suite."""
    log = getattr(cluster, "audit_log", None)
    if log is None:
        pytest.skip("only the local cluster keeps an audit log here")
    entries = [json.loads(line) for line in log.read_text().splitlines() if ACCOUNT in line]
    own = [entry for entry in entries if entry["user"]["username"] == ACCOUNT]
    assert own
    return own


def _lacks_right(entry: dict[str, Any]) -> bool:
    """Refused for its roles, not because a namespace is on its way out."""
    response = entry.get("responseStatus", {})
    return response.get("code") == 403 and "cannot" in response.get("message", "")


def _rights(entry: dict[str, Any]) -> set[Right]:
    """What a request had to be allowed: an apply that makes its object is recorded as a patch, and asked for create besides."""
    reference = entry["objectRef"]
    resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
    made = entry["verb"] == "patch" and entry.get("responseStatus", {}).get("code") == 201
    return {(reference.get("apiGroup", ""), resource, verb) for verb in (entry["verb"], *(["create"] if made else []))}


def _granted(kubectl: Kubectl) -> set[Right]:
    name = "jitney-operator"
    roles = [kubectl.get("clusterrole", name, installation.NAMESPACE), kubectl.get("role", name, installation.NAMESPACE)]
    return {
        (group, resource, verb)
        for role in roles
        for rule in (role or {})["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
