"""A PersistentVolume and claim that hold the test model, as somebody's storage would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.images import RUNTIME
from cluster.kubectl import Kubectl
from cluster.progress import Step
from cluster.target import Cluster

CLAIM = "smollm2"
SIZE = "2Gi"


def provide(cluster: Cluster, kubectl: Kubectl, model: Path, namespace: str = "default") -> str:
    """Make the claim in `namespace`; the `pvc://` reference of the model."""
    if cluster.kind == "local":
        kubectl.apply(*_on_this_machine(model, namespace))
        # A pod that comes before the claim is bound is called unschedulable for a moment.
        kubectl("wait", "--for=jsonpath={.status.phase}=Bound", f"pvc/{CLAIM}", "-n", namespace, "--timeout=60s")
    elif kubectl.get("pvc", CLAIM, namespace) is None:
        _copy(cluster, kubectl, model, namespace)
    return f"pvc://{CLAIM}/{model.name}"


def _on_this_machine(model: Path, namespace: str) -> list[dict[str, Any]]:
    """The node is this machine: the volume is the model's parent folder, bound to the one claim."""
    name = f"{CLAIM}-{namespace}"
    shared = {"storageClassName": "", "accessModes": ["ReadOnlyMany"]}
    source = {"hostPath": {"path": str(model.parent), "type": "Directory"}, "claimRef": {"namespace": namespace, "name": CLAIM}}
    volume = {"capacity": {"storage": SIZE}, "persistentVolumeReclaimPolicy": "Retain", **source, **shared}
    claim = {"volumeName": name, "resources": {"requests": {"storage": SIZE}}, **shared}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM, "namespace": namespace}, "spec": claim},
    ]


def _copy(cluster: Cluster, kubectl: Kubectl, model: Path, namespace: str) -> None:
    """Elsewhere: the cluster's own storage, filled through a pod that lives as long as the copy takes."""
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": SIZE}}}
    container = {
        "name": "copy",
        "image": cluster.reference(RUNTIME),
        "command": ["sleep", "3600"],
        "volumeMounts": [{"name": "model", "mountPath": "/model"}],
    }
    volume = {"name": "model", "persistentVolumeClaim": {"claimName": CLAIM}}
    spec = {"containers": [container], "volumes": [volume], "securityContext": {"fsGroup": 65532}, "terminationGracePeriodSeconds": 0}
    with Step("copying the model into the cluster"):
        kubectl.apply(
            {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM, "namespace": namespace}, "spec": claim},
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "model-copy", "namespace": namespace}, "spec": spec},
        )
        kubectl("wait", "--for=condition=Ready", "pod/model-copy", "-n", namespace, "--timeout=600s", seconds=620)
        kubectl("cp", str(model), f"{namespace}/model-copy:/model/{model.name}", seconds=900)
        kubectl("delete", "pod", "model-copy", "-n", namespace, "--now")
