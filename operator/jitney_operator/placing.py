"""What the scheduler and the nodes did with a pod: no place for it, thrown out again, or its node silent. Pure."""

from __future__ import annotations

import re
from datetime import datetime

from jitney_operator.failure import ADVICE, Failure
from jitney_operator.observed import Pod

# Words for a GPU that a node or its container runtime cannot give.
DEVICES = re.compile(r"\bcdi\b|nvidia|gpu|cuda|(?<!no space left on )device", re.IGNORECASE)
# What the scheduler thinks of claims for devices and of preemption changes with every attempt and helps nobody.
_BESIDE = re.compile(r"( no new claims to deallocate,)? preemption:")
# Seconds between the end of a pod that was thrown out and the making of the one in its place.
REPLACED_WITHIN = 120


def unscheduled(pod: Pod, others: tuple[Pod, ...]) -> Failure | None:
    """`others` are all pods of the resource: one that leaves may hold the device that this one waits for."""
    condition = pod.condition("PodScheduled")
    # Gates are of those who queue pods. Errors of the scheduler itself have other words at each try, and pass.
    if condition.get("status") != "False" or condition.get("reason") not in ("Unschedulable", "SchedulingGated"):
        return None
    message = _BESIDE.split(condition.get("message", ""))[0]
    if wanted := {device for device in pod.devices if f"Insufficient {device}" in message}:
        if any(other.leaving and other.placed and other.devices & wanted and not lost(other) for other in others):
            return Failure("WaitingForDrain", "A pod that is finishing its answers still holds the GPU.", pod.name)
        return Failure("InsufficientGPU", f"No node has a free GPU of the profile: {message}", pod.name)
    if "Insufficient memory" in message:
        return Failure("InsufficientMemory", f"No node has enough free memory: {message}", pod.name)
    claim = re.search(r'persistentvolumeclaim "([^"]+)" not found', message)
    if claim:
        return Failure(
            "ClaimNotFound", f"There is no PersistentVolumeClaim {claim[1]} here; create it, or correct spec.model or spec.cache.", pod.name
        )
    if "unbound immediate PersistentVolumeClaims" in message:
        message = "a claim of its is not bound to a volume; `kubectl describe pvc` says why (often there is no such StorageClass)."
    return Failure("Unschedulable", f"No node takes the pod: {message}", pod.name)


def lost(pod: Pod) -> Failure | None:
    """Only the node controller calls a pod not ready whose containers are: the node that would know has fallen silent."""
    condition = pod.condition("Ready")
    silent = condition.get("status") != "True" and pod.condition("ContainersReady").get("status") == "True"
    if not silent or condition.get("reason") == "ReadinessGatesNotReady":
        return None
    node = pod.body.get("spec", {}).get("nodeName", "")
    return Failure("NodeLost", f"The node {node} has fallen silent; Kubernetes makes another pod when it gives the node up.", pod.name)


def of_the_one_before(pods: tuple[Pod, ...], over: tuple[Pod, ...], told: str, wanted: int) -> Failure | None:
    """Pods that a node threw out are replaced at once, and the next ones start as if nothing had been: until one of these is ready, why
    counts. `pods` and those that are `over` are of one revision; of the one that was `told` the resource says it now."""
    if sum(pod.ready for pod in pods) >= wanted:
        return None
    served = max((pod.created for pod in pods if pod.ready), default="")
    since = [pod for pod in over if pod.failed_at > served]
    found = [pod for pod in since if any(_replaces(other, pod) for other in pods if not other.ready)]
    if not found and len(pods) < wanted:
        # Between the end of one and the making of the next, what was told still holds.
        found = [pod for pod in since if pod.name == told]
    return _thrown_out(max(found, key=lambda pod: pod.failed_at)) if found else None


def _replaces(pod: Pod, gone: Pod) -> bool:
    return abs((_moment(pod.created) - _moment(gone.failed_at)).total_seconds()) < REPLACED_WITHIN


def _thrown_out(pod: Pod) -> Failure | None:
    status = pod.body.get("status", {})
    # What follows the first sentence are figures of the moment.
    words = str(status.get("message", "")).split(". ")[0].partition(", requested:")[0].rstrip(".")
    match status.get("reason"):
        case str(reason) if reason.startswith("OutOf"):
            kind = "InsufficientGPU" if "/" in reason else "InsufficientMemory" if reason == "OutOfmemory" else "Unschedulable"
            return Failure(kind, f"The node refused the pod: {words}.", pod.name)
        case "Evicted" if re.search(r"ephemeral|emptydir|disk|inode|fs", words, re.IGNORECASE):
            return Failure("DiskFull", f"The node threw the pod out: {words}. {ADVICE['DiskFull']}", pod.name)
        case "Evicted" if "memory" in words:
            return Failure("OutOfMemory", f"The node threw the pod out: {words}. {ADVICE['OutOfMemory']}", pod.name)
        case "UnexpectedAdmissionError" if DEVICES.search(words):
            return Failure("DeviceNotFound", f"The node refused the pod: {words}. {ADVICE['DeviceNotFound']}", pod.name)
        case str(reason) if reason:
            # Evicted, NodeAffinity, NodeShutdown, Terminated, Preempting, and what kubelets call it next.
            return Failure("PodEvicted", f"The node threw the pod out: {words}. {ADVICE['PodEvicted']}", pod.name)
    return None


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
