"""Least privilege, both ways: operator and front door use every right that the chart gives them, and ask for none that they lack.

Runs last (files run in order of their names), on the API server's own record of the whole suite.
"""

from __future__ import annotations

import functools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from product import installation

from cluster.kubectl import Kubectl
from cluster.target import Cluster

OPERATOR, GATEWAY = ACCOUNTS = ("jitney-operator", "jitney-gateway")
# The roles of the front door are gone with it: as test_gateway.py has it installed.
DOOR = ("gateway.enabled=true", "gateway.namespace=default", "gateway.namespaces={*}")
Json = dict[str, Any]
Right = tuple[str, str, str]
# Granted and not seen in the record, each with its reason.
NAMED_EXCEPTIONS: dict[str, dict[Right, str]] = {
    OPERATOR: {
        ("serving.jitney.dev", "modeldeployments/finalizers", "update"): (
            "asked for by admission when a child names its owner; never a request"
        ),
        ("keda.sh", "scaledobjects", "watch"): "only where KEDA is installed; where it is not, the listing answers 404",
    },
    GATEWAY: {},
}


@pytest.mark.parametrize("account", ACCOUNTS)
def test_every_right_is_used_and_none_is_missing(account: str, cluster: Cluster, kubectl: Kubectl, operator: None) -> None:
    own = [entry for entry in _record(cluster, account) if "objectRef" in entry]
    used = {right for entry in own if entry.get("responseStatus", {}).get("code") != 403 for right in _rights(entry)}
    granted = _granted(_chart(kubectl), account)
    print(
        f"\n{account}: {len(granted)} rights, {len(own)} requests",
        *sorted(" ".join(filter(None, right)) for right in granted - used),
        sep="\n  not seen: ",
    )
    assert used <= granted, f"used and not granted: {used - granted}"
    assert granted - used == set(NAMED_EXCEPTIONS[account])


@pytest.mark.parametrize("account", ACCOUNTS)
def test_neither_is_refused_anything(account: str, cluster: Cluster) -> None:
    """Neither with a ClusterRole nor with the Roles of some namespaces did it ask for what it has no right to."""
    left = _told_to_leave(cluster)
    own = [entry for entry in _record(cluster, account) if _moment(entry["requestReceivedTimestamp"]) < left.get(_pod(entry), FOREVER)]
    assert not {f"{entry['verb']} {entry['requestURI']}" for entry in own if _lacks_right(entry)}


FOREVER = datetime.max.replace(tzinfo=UTC)
# An uninstall takes the rights first, and the Deployment and with it the pods some requests later.
UNINSTALL = timedelta(seconds=2)


def _told_to_leave(cluster: Cluster) -> dict[str, datetime]:
    """By pod: when whoever deleted it first did, less what an uninstall needs to come to that."""
    found: dict[str, datetime] = {}
    for entry in _entries(cluster):
        if entry["verb"] == "delete" and entry.get("objectRef", {}).get("resource") == "pods":
            found.setdefault(entry["objectRef"]["name"], _moment(entry["requestReceivedTimestamp"]) - UNINSTALL)
    return found


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _pod(entry: Json) -> str:
    return str(entry["user"]["extra"]["authentication.kubernetes.io/pod-name"][0])


def _record(cluster: Cluster, account: str) -> list[Json]:
    """Everything that `account` asked the API server for, in the whole suite."""
    name = f"system:serviceaccount:{installation.NAMESPACE}:{account}"
    own = [entry for entry in _entries(cluster) if entry["user"]["username"] == name]
    assert own, f"{account} asked for nothing"
    return own


@functools.cache
def _entries(cluster: Cluster) -> list[Json]:
    """Everything that either of them asked for, and every delete of a pod."""
    log = getattr(cluster, "audit_log", None)
    if log is None:
        pytest.skip("only the local cluster keeps an audit log here")
    wanted = (*(f":{account}" for account in ACCOUNTS), '"verb":"delete"')
    return [json.loads(line) for line in log.read_text().splitlines() if any(word in line for word in wanted)]


def _lacks_right(entry: Json) -> bool:
    """Refused for its roles, not because a namespace is on its way out."""
    response = entry.get("responseStatus", {})
    return response.get("code") == 403 and "cannot" in response.get("message", "")


def _rights(entry: Json) -> set[Right]:
    """What a request had to be allowed: an apply that makes its object is recorded as a patch, and asked for create besides."""
    reference = entry["objectRef"]
    resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
    made = entry["verb"] == "patch" and entry.get("responseStatus", {}).get("code") == 201
    return {(reference.get("apiGroup", ""), resource, verb) for verb in (entry["verb"], *(["create"] if made else []))}


def _chart(kubectl: Kubectl) -> list[Json]:
    """Everything that the chart makes with the suite's values, the front door included."""
    flags = [word for value in DOOR for word in ("--set", value)]
    where = ("--namespace", installation.NAMESPACE, "--values", str(installation.VALUES))
    text = kubectl.helm("template", installation.RELEASE, str(installation.CHART), *where, *flags)
    return [made for made in yaml.safe_load_all(text) if made]


def _granted(chart: list[Json], account: str) -> set[Right]:
    """By every role that is bound to it."""
    roles = {_name(made): made["rules"] for made in chart if made["kind"] in ("Role", "ClusterRole")}
    bound = [made for made in chart if made["kind"] in ("RoleBinding", "ClusterRoleBinding") and account in _subjects(made)]
    return {
        (group, resource, verb)
        for binding in bound
        for rule in roles[_role(binding)]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _name(made: Json) -> Right:
    """Kind, name, and where it is."""
    return made["kind"], made["metadata"]["name"], made["metadata"].get("namespace", "")


def _role(binding: Json) -> Right:
    reference = binding["roleRef"]
    return reference["kind"], reference["name"], binding["metadata"].get("namespace", "") if reference["kind"] == "Role" else ""


def _subjects(binding: Json) -> set[str]:
    return {subject["name"] for subject in binding["subjects"] if subject["namespace"] == installation.NAMESPACE}
