"""What the resource says while Kubernetes replaces, stops and loses its pods, and what it says before anybody has looked."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from product import installation, metrics, resource
from product.client import Client
from product.eye import Eye, Seen
from product.resource import condition
from product.rollouts import Rollout
from product.situations import LABEL, Knows, Situation

from cluster.kubectl import CommandFailed, Kubectl, wait_for
from cluster.local import LocalCluster
from cluster.target import Cluster


def _asks(**spec: Any) -> Knows:
    """The moment at which the resource was told to be so."""
    return Knows("modeldeployments", lambda found: all(found["spec"].get(name) == value for name, value in spec.items()))


def _gave_up(deployment: Seen) -> bool:
    return any(entry.get("reason") == "ProgressDeadlineExceeded" for entry in deployment.get("status", {}).get("conditions") or ())


def _newer(deployment: Seen) -> bool:
    """A rollout that the Deployment controller has taken up and not finished."""
    status = deployment.get("status") or {}
    current = status.get("observedGeneration") == deployment["metadata"]["generation"]
    return bool(deployment["metadata"]["generation"] > 1 and current and status.get("replicas") != status.get("updatedReplicas"))


def test_a_rollout_that_is_stuck_and_one_that_is_done(
    smollm2: str, situation: Situation, rollout: Rollout, client: Client, kubectl: Kubectl, namespace: str
) -> None:
    """The old revision serves until the new one can."""
    begun = time.time()
    _patch(kubectl, namespace, '{"spec": {"image": "registry.invalid/none/such:1"}}')
    situation("rollout under way", "smollm2", Knows("deployments", _newer), "Progressing", "RollingOut", "True", since=begun)
    knows = Knows("pods", lambda pod: _waits_for(pod) in ("ErrImagePull", "ImagePullBackOff"))
    seen = situation("rollout stuck", "smollm2", knows, "ModelLoaded", "ImagePullError")
    assert (condition(seen, "Available") or {})["status"] == "True"
    assert seen["status"]["serving"] == {"current": 0, "previous": 1}
    chats = client.chat(smollm2, "smollm2", max_tokens=4)
    assert not [chat.error for chat in chats if chat.error]
    rollout("old revision serves until the new is ready", chats)
    generation = (kubectl.get("deployment", "smollm2", namespace) or {})["metadata"]["generation"]
    begun = time.time()
    _patch(kubectl, namespace, '{"spec": {"image": null}}')
    done = Knows("deployments", lambda found: found["metadata"]["generation"] > generation and _complete(found))
    situation("rollout done", "smollm2", done, "Progressing", "Complete", since=begun)
    resource.wait_ready(kubectl, "smollm2", 60, namespace)


def test_a_rollout_that_runs_out_of_time(overdue: str, situation: Situation, kubectl: Kubectl) -> None:
    """Begun with the suite: Kubernetes gives a rollout five minutes more than a start may take."""
    wait_for(lambda: _gave_up(kubectl.get("deployment", "overdue", overdue) or {"status": {}}), 400, "end of its patience", every=2)
    seen = situation.elsewhere(overdue)("rollout out of time", "overdue", Knows("deployments", _gave_up), "Progressing", "DeadlineExceeded")
    assert seen["status"]["reason"] == "ImagePullError", "what is in the way is told first"


def test_suspended_and_scaled_to_zero(apply, situation: Situation, kubectl: Kubectl, namespace: str) -> None:
    apply("idle", model="file:///nowhere", suspend=True)
    situation("suspended", "idle", _asks(suspend=True), "Ready", "Suspended", "True")
    apply("idle", model="file:///nowhere", replicas=0)
    situation("scaled to zero", "idle", _asks(replicas=0), "Ready", "ScaledToZero", "True")


@pytest.fixture
def kubelet(cluster: Cluster, kubectl: Kubectl) -> Iterator[int]:
    """Its process; running again, and the node ready, afterwards."""
    if not isinstance(cluster, LocalCluster):
        pytest.skip("only the local cluster's kubelet is ours to stop")
    pid = cluster.process("kubelet")
    yield pid
    os.kill(pid, signal.SIGCONT)
    kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=120s")


def test_a_node_that_falls_silent(smollm2: str, situation: Situation, kubelet: int, kubectl: Kubectl, namespace: str) -> None:
    os.kill(kubelet, signal.SIGSTOP)
    seen = situation("node lost", "smollm2", Knows("pods", _says_not_ready, of_a_pod=True), "Scheduled", "NodeLost")
    assert "has fallen silent" in condition(seen, "Scheduled")["message"]
    os.kill(kubelet, signal.SIGCONT)
    resource.wait_ready(kubectl, "smollm2", 120, namespace)


@pytest.fixture
def no_operator(kubectl: Kubectl, operator: None) -> Iterator[None]:
    deployment = ("deployment", installation.DEPLOYMENT, "-n", installation.NAMESPACE)
    installation.stop(kubectl)
    yield
    kubectl("scale", *deployment, "--replicas=1")
    kubectl("rollout", "status", *deployment, "--timeout=120s")


def test_a_generation_that_nobody_has_looked_at(apply, situation: Situation, no_operator: None, kubectl: Kubectl, namespace: str) -> None:
    """A new resource does not pass for ready."""
    apply("unseen", model="file:///nowhere", replicas=0)
    situation("generation not observed yet", "unseen", _asks(replicas=0), "Ready", "Pending", "Unknown")
    with pytest.raises(CommandFailed, match="timed out"):
        kubectl("wait", "--for=condition=Ready", "mdep/unseen", "-n", namespace, "--timeout=2s")
    assert "Pending" in kubectl("get", "mdep", "unseen", "-n", namespace)


@pytest.fixture
def ready(apply, kubectl: Kubectl, namespace: str) -> str:
    """A resource that is Ready, with nobody looking after it: ask for no_operator after it."""
    apply("idle", model="file:///nowhere", suspend=True)
    resource.wait_ready(kubectl, "idle", 60, namespace)
    return "idle"


def test_a_new_generation_of_a_resource_that_was_ready(ready: str, no_operator: None, kubectl: Kubectl, namespace: str) -> None:
    """Its condition still says True, of the generation before: whoever waits is not told otherwise."""
    kubectl("wait", "--for=condition=Ready", f"mdep/{ready}", "-n", namespace, "--timeout=10s")
    patch = '{"spec": {"suspend": false, "replicas": 0}}'
    kubectl("patch", "mdep", ready, "-n", namespace, "--type=merge", "-p", patch)
    seen = kubectl.get("mdep", ready, namespace) or {}
    verdict = condition(seen, "Ready") or {}
    assert (verdict["status"], verdict["observedGeneration"]) == ("True", seen["metadata"]["generation"] - 1)
    with pytest.raises(CommandFailed, match="timed out"):
        kubectl("wait", "--for=condition=Ready", f"mdep/{ready}", "-n", namespace, "--timeout=2s")


def test_a_pod_leaves_the_service_before_it_drains(
    smollm2: str, rollout: Rollout, client: Client, eye: Eye, kubectl: Kubectl, namespace: str
) -> None:
    """No new connections, then unready, then the last answer, then the end; Kubernetes' own records tell the order."""
    (old,) = kubectl.list("pods", namespace, "-l", f"{LABEL}=smollm2")
    # Long enough that the first is not over before the last begins.
    prompts = [f"Write a long story about the number {number}." for number in range(16)]
    load = client.start(smollm2, "smollm2", prompts=prompts, max_tokens=200)
    wait_for(lambda: metrics.running(kubectl, namespace) >= 16, 60, "running chats")
    begun = time.time()
    kubectl("delete", "pod", old["metadata"]["name"], "-n", namespace, "--wait=false")
    chats = client.finish(load)
    rollout("termination in order", chats)
    assert not [chat.error for chat in chats if chat.error]

    def endpoint(name: str) -> Callable[[Seen], bool]:
        def is_off(found: Seen) -> bool:
            endpoints = [entry for entry in found["endpoints"] or () if entry["targetRef"]["uid"] == old["metadata"]["uid"]]
            return found["metadata"]["namespace"] == namespace and not any(entry["conditions"][name] for entry in endpoints)

        return is_off

    def is_over(found: Seen) -> bool:
        ended = next(iter(found["status"].get("containerStatuses") or [{}])).get("state", {}).get("terminated", {})
        return bool(found["metadata"]["uid"] == old["metadata"]["uid"] and ended and ended["exitCode"] == 0)

    withdrawn = eye.first("endpointslices", endpoint("ready"), 30, "the endpoint withdrawn", begun)
    unready = eye.first("endpointslices", endpoint("serving"), 30, "the endpoint no longer serving", begun)
    over = eye.first("pods", is_over, 60, "the end of the pod's process", begun)
    last = max(chat.ended for chat in chats)
    moments = {"withdrawn": withdrawn, "unready": unready, "last answer": last, "process over": over}
    print("\n" + ", ".join(f"{name} after {at - begun:.2f} s" for name, at in moments.items()))
    # A busy client reads an answer's last words a moment after the process that sent them is over; that all came whole is seen above.
    assert withdrawn <= unready <= min(last, over)


def _patch(kubectl: Kubectl, namespace: str, patch: str) -> None:
    kubectl("patch", "mdep", "smollm2", "-n", namespace, "--type=merge", "-p", patch)


def _waits_for(pod: Seen) -> str | None:
    status = next(iter(pod["status"].get("containerStatuses") or []), {})
    return status.get("state", {}).get("waiting", {}).get("reason")


def _complete(deployment: Seen) -> bool:
    status = deployment.get("status") or {}
    count = deployment["spec"]["replicas"]
    current = status.get("observedGeneration") == deployment["metadata"]["generation"]
    return current and [status.get(name) for name in ("replicas", "updatedReplicas", "readyReplicas")] == [count] * 3


def _says_not_ready(pod: Seen) -> bool:
    """Said by the node controller in the kubelet's place."""
    conditions = {entry["type"]: entry["status"] for entry in pod["status"].get("conditions") or []}
    return "Ready" in conditions and conditions["Ready"] != "True" and conditions.get("ContainersReady") == "True"
