"""What the controllers and kubelets of a real cluster would write, written by hand: the tests' API server has neither."""

from __future__ import annotations

import json
from typing import Any

from jitney_operator.api import LABEL, TEMPLATE
from support.namespaces import Namespace


def deployment(namespace: Namespace, name: str = "chat") -> dict[str, Any]:
    return dict(json.loads(namespace.kubectl("get", "deployment", name, "-o", "json")))


def service(namespace: Namespace, name: str = "chat") -> dict[str, Any]:
    return dict(json.loads(namespace.kubectl("get", "service", name, "-o", "json")))


def settled(namespace: Namespace, name: str = "chat") -> bool:
    """Both children are there and the status is of the newest spec."""
    found = namespace.get(name)
    service(namespace, name)
    deployment(namespace, name)
    return bool(found["status"]["observedGeneration"] == found["metadata"]["generation"])


def finish_rollout(namespace: Namespace, name: str = "chat") -> None:
    """Every wanted pod is there and ready, no other is, and the Deployment controller says so."""
    seen = deployment(namespace, name)
    count = seen["spec"]["replicas"]
    _make_ready(namespace, name, count, seen["spec"]["template"]["metadata"]["annotations"][TEMPLATE])
    status: dict[str, Any] = {"observedGeneration": seen["metadata"]["generation"], "replicas": count, "updatedReplicas": count}
    status |= {"readyReplicas": count, "availableReplicas": count}
    _patch_status(namespace, "deployment", name, status)


def _make_ready(namespace: Namespace, name: str, count: int, template: str) -> None:
    found = json.loads(namespace.kubectl("get", "pods", "-l", f"{LABEL}={name}", "-o", "json"))["items"]
    current = [pod["metadata"]["name"] for pod in found if pod["metadata"]["annotations"].get(TEMPLATE) == template]
    if gone := [pod["metadata"]["name"] for pod in found if pod["metadata"]["name"] not in current[:count]]:
        namespace.kubectl("delete", "pod", *gone, "--grace-period=0", "--force")
    for number in range(len(current), count):
        current.append(f"{name}-{template[:5]}-{number}")
        make_pod(namespace, current[-1], name)
    for pod in current[:count]:
        set_container(namespace, {"running": {}}, pod, conditions=[{"type": "Ready", "status": "True"}])


def make_pod(namespace: Namespace, pod: str = "chat-1", name: str = "chat") -> None:
    """A pod of the Deployment's current template, placed on a node."""
    template = deployment(namespace, name)["spec"]["template"]
    metadata = {**template["metadata"], "name": pod}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {**template["spec"], "nodeName": "n1"}}
    namespace.kubectl("create", "-f", "-", input=json.dumps(body))


def ready_pod(namespace: Namespace, address: str, pod: str = "chat-1") -> None:
    """One whose runtime is asked at this address."""
    make_pod(namespace, pod)
    ready = [{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}]
    set_container(namespace, {"running": {}}, pod, podIP=address, podIPs=[{"ip": address}], conditions=ready)


def set_container(namespace: Namespace, state: dict[str, Any], pod: str = "chat-1", **more: Any) -> None:
    """The state of the pod's container, as the kubelet writes it; `more` goes into the pod's status."""
    last = {"lastState": more.pop("last_state")} if "last_state" in more else {}
    container = {"name": "runtime", "image": "x", "imageID": "", "ready": False, "restartCount": 1, "state": state, **last}
    _patch_status(namespace, "pod", pod, {"phase": "Running", "containerStatuses": [container], **more})


def _patch_status(namespace: Namespace, kind: str, name: str, status: dict[str, Any]) -> None:
    namespace.kubectl("patch", kind, name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
