"""What the chart lets its accounts do, word for word: the same in the namespaces that they are given as everywhere, and nothing besides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import binaries
from cluster.kubectl import Kubectl

CHART = Path(__file__).parents[2] / "charts" / "jitney"
HOME = "jitney-system"
Json = dict[str, Any]
# group/resource, with a name where it is of that object only -> verbs
Rights = dict[str, str]
# Kind, namespace and name.
Where = tuple[str, str, str]

OPERATOR: Rights = {
    "serving.jitney.dev/modeldeployments": "list watch",
    "serving.jitney.dev/modeldeployments/status": "patch",
    "serving.jitney.dev/modeldeployments/finalizers": "update",
    "apps/deployments": "create get list patch watch",
    "/services": "create get list patch watch",
    "/persistentvolumeclaims": "create get list patch watch",
    "/pods": "list watch",
    "events.k8s.io/events": "create",
    "autoscaling/horizontalpodautoscalers": "list watch",
    "keda.sh/scaledobjects": "list watch",
    "/events": "list",
}
LEASE: Rights = {"coordination.k8s.io/leases": "create", "coordination.k8s.io/leases jitney-operator": "get update"}
# For people: what the cluster's own roles view, edit and admin take up.
VIEW: Rights = {f"serving.jitney.dev/modeldeployments{part}": "get list watch" for part in ("", "/status", "/scale")}
EDIT: Rights = {
    "serving.jitney.dev/modeldeployments": "create delete deletecollection patch update",
    "serving.jitney.dev/modeldeployments/scale": "patch update",
}
PEOPLE: dict[Where, Rights] = {("ClusterRole", "", "jitney-operator-view"): VIEW, ("ClusterRole", "", "jitney-operator-edit"): EDIT}
# Of the operator with a front door, wherever it watches.
ALWAYS = PEOPLE | {("Role", HOME, "jitney-operator"): LEASE}
EVERYWHERE = ALWAYS | {("ClusterRole", "", "jitney-operator"): OPERATOR}

SERVED: Rights = {
    "serving.jitney.dev/modeldeployments": "list patch watch",
    "serving.jitney.dev/modeldeployments/scale": "get patch",
    "discovery.k8s.io/endpointslices": "list watch",
}
LAUNCHED: Rights = SERVED | {
    "serving.jitney.dev/modeldeployments": "create delete list patch watch",
    "/pods": "list",
    "/pods/log": "get",
    "/configmaps": "create",
    "/configmaps jitney-registrations": "get patch",
}


@pytest.fixture(scope="module")
def helm() -> Kubectl:
    binaries.build((binaries.HELM,))
    return Kubectl(None)


def rendered(helm: Kubectl, *values: str) -> list[Json]:
    """All that the chart makes with these values."""
    flags = [word for value in values for word in ("--set", value)]
    return [made for made in yaml.safe_load_all(helm.helm("template", "jitney", str(CHART), "--namespace", HOME, *flags)) if made]


def place(made: Json) -> Where:
    return made["kind"], made["metadata"].get("namespace", ""), made["metadata"]["name"]


def roles(chart: list[Json]) -> dict[Where, Rights]:
    return {place(made): rights(made["rules"]) for made in chart if made["kind"] in ("Role", "ClusterRole")}


def rights(rules: list[Json]) -> Rights:
    """A rule of any other form than those here is refused: nothing it grants may pass unseen."""
    found: dict[str, set[str]] = {}
    for rule in rules:
        assert rule.keys() <= {"apiGroups", "resources", "resourceNames", "verbs"}, rule
        names = [f" {name}" for name in rule.get("resourceNames") or ()] or [""]
        for what in (f"{group}/{resource}{name}" for group in rule["apiGroups"] for resource in rule["resources"] for name in names):
            found.setdefault(what, set()).update(rule["verbs"])
    return {what: " ".join(sorted(verbs)) for what, verbs in found.items()}


def held(chart: list[Json]) -> dict[str, set[Where]]:
    """The roles that each account holds, where it holds them."""
    found: dict[str, set[Where]] = {}
    for made in chart:
        if made["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            (account,) = made["subjects"]
            assert (account["kind"], account["namespace"]) == ("ServiceAccount", HOME)
            kind, namespace, _ = place(made)
            assert kind == f"{made['roleRef']['kind']}Binding", "a ClusterRole held in one namespace would be a way around these tables"
            found.setdefault(account["name"], set()).add((made["roleRef"]["kind"], namespace, made["roleRef"]["name"]))
    return found


def test_everywhere(helm: Kubectl):
    chart = rendered(helm)
    assert roles(chart) == EVERYWHERE
    assert held(chart) == {"jitney-operator": EVERYWHERE.keys() - PEOPLE.keys()}


def test_in_the_namespaces_that_it_is_given(helm: Kubectl):
    """Nothing of the operator's is for a whole cluster only, so its Roles say what its ClusterRole says."""
    chart = rendered(helm, "watchNamespaces={one,two}")
    expected = ALWAYS | {("Role", namespace, "jitney-operator-models"): OPERATOR for namespace in ("one", "two")}
    assert roles(chart) == expected
    assert held(chart) == {"jitney-operator": expected.keys() - PEOPLE.keys()}


@pytest.mark.parametrize(
    ("values", "served"),
    [
        ([], {}),
        (["gateway.namespaces={one,home}"], {("Role", "one", "jitney-gateway-models"): SERVED}),
        (["gateway.namespaces={*}"], {("ClusterRole", "", "jitney-gateway"): SERVED}),
    ],
    ids=["its own namespace", "another one besides", "everywhere"],
)
def test_the_front_door(helm: Kubectl, values: list[str], served: dict[Where, Rights]):
    chart = rendered(helm, "gateway.enabled=true", "gateway.namespace=home", *values)
    door = {("Role", "home", "jitney-gateway"): LAUNCHED} | served
    assert roles(chart) == EVERYWHERE | door
    assert held(chart) == {"jitney-operator": EVERYWHERE.keys() - PEOPLE.keys(), "jitney-gateway": set(door)}


def test_no_role_where_somebody_else_makes_them(helm: Kubectl):
    chart = rendered(helm, "rbac.create=false", f"watchNamespaces={{{HOME}}}", "gateway.enabled=true")
    assert not roles(chart)
    assert not held(chart)
