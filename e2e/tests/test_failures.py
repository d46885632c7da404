"""What goes wrong is named on the resource, within seconds of Kubernetes knowing it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from product import resource
from product.resource import condition

from cluster.kubectl import Kubectl, wait_for

POD = "serving.jitney.dev/model-deployment"
# Generous: the suite shares two cores with everything else. The seconds are printed.
REPORT_SECONDS = 30


def test_a_model_that_does_not_exist(apply, kubectl: Kubectl, namespace: str) -> None:
    apply("nowhere", model="file:///nowhere")
    known = _when(kubectl, namespace, "nowhere", lambda pod: _terminated(pod) is not None)
    seen = _reported(kubectl, namespace, "nowhere", "ModelLoaded", {"ModelNotFound"}, known)
    failure = seen["status"]["lastFailure"]
    assert failure["exitCode"] == 10
    assert "/nowhere" in condition(seen, "ModelLoaded")["message"]


def test_a_pod_that_uses_more_memory_than_its_limit(apply, model: str, kubectl: Kubectl, namespace: str) -> None:
    """The kernel kills it: the interpreter and torch fit, the weights do not."""
    apply("hungry", model=model, resources={"requests": {"cpu": "100m", "memory": "600Mi"}, "limits": {"memory": "600Mi"}})
    known = _when(kubectl, namespace, "hungry", lambda pod: _terminated(pod) is not None)
    seen = _reported(kubectl, namespace, "hungry", "ModelLoaded", {"OutOfMemory"}, known)
    assert seen["status"]["lastFailure"]["exitCode"] == 137
    assert "more memory than its limit" in condition(seen, "ModelLoaded")["message"]


def test_a_crash_loop_shows_the_last_words(apply, model: str, kubectl: Kubectl, namespace: str) -> None:
    apply("crashing", model=model, args=["--no-such-flag"])
    known = _when(kubectl, namespace, "crashing", lambda pod: _terminated(pod) is not None)
    seen = _reported(kubectl, namespace, "crashing", "ModelLoaded", {"CrashLoop"}, known)
    assert seen["status"]["lastFailure"]["exitCode"] == 2
    assert "--no-such-flag" in condition(seen, "ModelLoaded")["message"]
    described = kubectl("describe", "mdep", "crashing", "-n", namespace)
    assert "--no-such-flag" in described.split("Events:")[1]


def test_an_image_that_does_not_exist(apply, kubectl: Kubectl, namespace: str) -> None:
    apply("noimage", model="file:///nowhere", image="registry.invalid/none/such:1")
    known = _when(kubectl, namespace, "noimage", lambda pod: _waiting(pod) in ("ErrImagePull", "ImagePullBackOff"))
    seen = _reported(kubectl, namespace, "noimage", "ModelLoaded", {"ImagePullError"}, known)
    assert "registry.invalid/none/such:1" in condition(seen, "ModelLoaded")["message"]


def test_a_pod_that_no_node_takes(apply, kubectl: Kubectl, namespace: str) -> None:
    apply("homeless", model="file:///nowhere", scheduling={"nodeSelector": {"jitney.dev/no-such-node": "yes"}})
    known = _when(kubectl, namespace, "homeless", _unschedulable)
    seen = _reported(kubectl, namespace, "homeless", "Scheduled", {"Unschedulable"}, known)
    assert "node" in condition(seen, "Scheduled")["message"]


def test_more_memory_than_any_node_has(apply, kubectl: Kubectl, namespace: str) -> None:
    apply("huge", model="file:///nowhere", resources={"requests": {"memory": "900Gi"}, "limits": {"memory": "900Gi"}})
    known = _when(kubectl, namespace, "huge", _unschedulable)
    _reported(kubectl, namespace, "huge", "Scheduled", {"InsufficientMemory"}, known)


def test_a_gpu_pod_without_a_node_that_has_one(apply, kubectl: Kubectl, namespace: str) -> None:
    apply("nogpu", model="file:///nowhere", resourceProfile="nvidia-gpu", resources={"requests": {"cpu": "100m", "memory": "256Mi"}})
    known = _when(kubectl, namespace, "nogpu", _unschedulable)
    _reported(kubectl, namespace, "nogpu", "Scheduled", {"InsufficientGPU"}, known)


def test_a_gpu_pod_that_finds_no_cuda(apply, model: str, gpu_on_paper: None, kubectl: Kubectl, namespace: str) -> None:
    small = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}}
    apply("nocuda", model=model, resourceProfile="nvidia-gpu", resources=small)
    pod = _pod(kubectl, namespace, "nocuda")
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    known = _when(kubectl, namespace, "nocuda", lambda pod: _terminated(pod) is not None)
    seen = _reported(kubectl, namespace, "nocuda", "ModelLoaded", {"DeviceNotFound"}, known)
    assert seen["status"]["lastFailure"]["exitCode"] == 16


@pytest.fixture
def gpu_on_paper(kubectl: Kubectl) -> Iterator[None]:
    """A node that claims one GPU and has none: the scheduler places the pod, the kubelet runs it."""
    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    for operation in ("add", "remove"):
        value = {"value": "1"} if operation == "add" else {}
        patch = [{"op": operation, "path": f"/status/{part}/nvidia.com~1gpu", **value} for part in ("capacity", "allocatable")]
        kubectl("patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps(patch))
        if operation == "add":
            yield


def _pod(kubectl: Kubectl, namespace: str, name: str) -> dict[str, Any]:
    def first() -> dict[str, Any] | None:
        return next(iter(kubectl.list("pods", namespace, "-l", f"{POD}={name}")), None)

    return wait_for(first, 60, f"pod of {name}")


def _when(kubectl: Kubectl, namespace: str, name: str, holds: Callable[[dict[str, Any]], bool]) -> float:
    """The earliest moment at which Kubernetes may have known: the last look that did not show it yet."""
    asked = [time.time()]

    def known() -> bool:
        asked.append(time.time())
        return any(holds(pod) for pod in kubectl.list("pods", namespace, "-l", f"{POD}={name}"))

    wait_for(known, 120, f"trouble on the pod of {name}")
    return asked[-2]


def _reported(kubectl: Kubectl, namespace: str, name: str, kind: str, reasons: set[str], known: float) -> dict[str, Any]:
    """The resource once the condition and the one word say it; prints the seconds since Kubernetes knew."""

    def says(seen: dict[str, Any]) -> bool:
        found = condition(seen, kind) or {}
        return found.get("status") == "False" and found.get("reason") in reasons and seen["status"].get("reason") in reasons

    seen = resource.wait_until(kubectl, name, f"{kind}=False with {reasons}", says, REPORT_SECONDS, namespace)
    print(f"\n{name}: {condition(seen, kind)['reason']} on the resource at most {time.time() - known:.1f} s after Kubernetes knew")
    assert (condition(seen, "Ready") or {})["status"] == "False"
    return seen


def _status(pod: dict[str, Any]) -> dict[str, Any]:
    return next(iter(pod["status"].get("containerStatuses") or []), {})


def _waiting(pod: dict[str, Any]) -> str | None:
    return _status(pod).get("state", {}).get("waiting", {}).get("reason")


def _terminated(pod: dict[str, Any]) -> dict[str, Any] | None:
    status = _status(pod)
    return status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")


def _unschedulable(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions") or []
    return any(entry["type"] == "PodScheduled" and entry["status"] == "False" for entry in conditions)
