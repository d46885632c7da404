"""Deleting a ModelDeployment leaves nothing behind: every type the API server knows is listed before and after."""

from __future__ import annotations

from product import resource

from cluster.kubectl import Kubectl, wait_for

# Records of what happened, which end by their age.
RECORDS = {"events", "events.events.k8s.io"}


def test_delete_leaves_nothing(apply, model: str, kubectl: Kubectl, namespace: str) -> None:
    before = _everything(kubectl, namespace)
    apply("gone", model=model, rollout={"drainSeconds": 1})
    resource.wait_ready(kubectl, "gone", 180, namespace)
    made = {name.split("/")[0] for name in _everything(kubectl, namespace) - before}
    assert made >= {"deployments.apps", "services", "pods", "modeldeployments.serving.jitney.dev"}
    kubectl("delete", "mdep", "gone", "-n", namespace, "--timeout=60s")
    wait_for(lambda: not kubectl.list("pods", namespace), 60, "end of the pods")
    wait_for(lambda: _everything(kubectl, namespace) <= before, 30, "namespace as it was before", every=1)


def _everything(kubectl: Kubectl, namespace: str) -> set[str]:
    """type/name of every object in the namespace, and of every object that is in none."""
    found = set()
    for namespaced in ("true", "false"):
        for kind in kubectl("api-resources", f"--namespaced={namespaced}", "--verbs=list", "-o", "name").split():
            if kind not in RECORDS:
                names = kubectl("get", kind, "-n", namespace, "-o", "jsonpath={.items[*].metadata.name}")
                found |= {f"{kind}/{name}" for name in names.split()}
    return found
