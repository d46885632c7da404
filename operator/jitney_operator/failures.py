"""Why a pod does not serve: one reason of ours, one sentence for a person. Pure; the texts are stable across restarts."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from datetime import datetime

from jitney_operator import pulls
from jitney_operator.api import CONTAINER, Json
from jitney_operator.observed import Observed, Pod, Trouble

EXIT_CODES = {
    1: "CrashLoop",
    2: "CrashLoop",
    10: "ModelNotFound",
    11: "Unauthorized",
    12: "HubUnreachable",
    13: "DiskFull",
    14: "OutOfMemory",
    15: "GPUOutOfMemory",
    16: "DeviceNotFound",
    17: "NotSupportedYet",
    18: "CacheNotWritable",
    19: "ModelDamaged",
}
ADVICE = {
    "ModelNotFound": "Check spec.model and spec.revision.",
    "Unauthorized": "Accept the model's licence on the hub and set spec.hfTokenSecretRef.",
    "HubUnreachable": "Check the network path from the pods to the hub.",
    "DiskFull": "Give the nodes more ephemeral storage or choose a smaller model.",
    "CacheNotWritable": "Let that user write to the volume of spec.cache; a folder of a node is given away with `chown 65532:65532`.",
    "OutOfMemory": "Lower maxNumSeqs or maxModelLen, choose a smaller size, or a profile with more memory.",
    "GPUOutOfMemory": "Lower maxNumSeqs or maxModelLen, choose a smaller size, or a profile with a bigger GPU.",
    "DeviceNotFound": "Check that the profile's nodes have a GPU and its driver, or set device to cpu.",
    "StartupTimeout": "Raise spec.startupTimeoutSeconds if the model needs longer to load.",
}
DEVICES = re.compile(r"\bcdi\b|nvidia|gpu|cuda|device", re.IGNORECASE)
# Waiting for these is the way of every pod, or told by the newest exit.
USUAL = {"ContainerCreating", "PodInitializing", "CrashLoopBackOff", ""}
# Seconds between the end of a pod that was thrown out and the making of the one in its place.
REPLACED_WITHIN = 120
# Names of one attempt would make each of them look like something new.
NAMES_OF_AN_ATTEMPT = re.compile(r"\b[0-9a-f]{32,}\b")
# Told to stop (the runtime then ends with 0), or killed.
STOPPED = {0, 137, 143}
LOG_PREFIX = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[,.]\d+ (?:[A-Z]+ [\w.]+: )?"
PULL_ERRORS = {
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable",
    "SignatureValidationFailed",
}  # fmt: skip
SCHEDULING = {"InsufficientGPU", "InsufficientMemory", "Unschedulable", "WaitingForDrain", "QuotaExceeded", "PolicyDenied", "NodeLost"}


@dataclass(frozen=True)
class Failure:
    """`exit_code` is None when no process ended; `contained`: it is the container that fails, and not its pod or what should make one."""

    reason: str
    message: str
    pod: str = ""
    exit_code: int | None = None
    contained: bool = False

    @property
    def schedules(self) -> bool:
        return self.reason in SCHEDULING

    def echo(self, now: str) -> Json:
        """status.lastFailure"""
        found: Json = {"reason": self.reason, "message": self.message, "time": now}
        if self.pod:
            found["pod"] = self.pod
        if self.contained:
            found["container"] = CONTAINER
        if self.exit_code is not None:
            found["exitCode"] = self.exit_code
        return found


def of(observed: Observed, pods: tuple[Pod, ...], told: Json | None = None) -> Failure | None:
    """The first cause among these pods, or that no pod could be made. `told` is what status.lastFailure says."""
    told = told or {}
    draining = any(pod.leaving for pod in observed.pods)
    for pod in sorted(pods, key=lambda pod: pod.name):
        failure = of_pod(pod, draining, observed.troubles.get(pod.uid), told)
        if failure:
            return failure
    return of_deployment(observed) or _of_the_one_before(observed, pods, told.get("pod", ""))


def _of_the_one_before(observed: Observed, pods: tuple[Pod, ...], told: str) -> Failure | None:
    """Pods that the node threw out are replaced at once, and the next one starts as if nothing had been: until one is ready, why counts."""
    if not pods:
        # Between the end of one and the making of the next, what was told still holds.
        return next((_thrown_out(pod) for pod in observed.pods if pod.over and pod.name == told), None)
    if any(pod.ready for pod in pods):
        return None
    oldest = min(pod.created for pod in pods)
    thrown_out = [pod for pod in observed.pods if pod.over and pod.template == pods[0].template and pod.failed_at]
    recent = [pod for pod in thrown_out if abs((_moment(oldest) - _moment(pod.failed_at)).total_seconds()) < REPLACED_WITHIN]
    return _thrown_out(max(recent, key=lambda pod: pod.failed_at)) if recent else None


def _thrown_out(pod: Pod) -> Failure | None:
    status = pod.body.get("status", {})
    # What follows the first sentence are figures of the moment.
    words = str(status.get("message", "")).split(". ")[0].partition(", requested:")[0].rstrip(".")
    match status.get("reason"):
        case str(reason) if reason.startswith("OutOf"):
            kind = "InsufficientGPU" if "gpu" in reason else "InsufficientMemory" if reason == "OutOfmemory" else "Unschedulable"
            return Failure(kind, f"The node refused the pod: {words}.", pod.name)
        case "Evicted" if re.search(r"ephemeral|emptydir|disk|inode|fs", words, re.IGNORECASE):
            return Failure("DiskFull", f"The node threw the pod out: {words}. {ADVICE['DiskFull']}", pod.name)
        case "Evicted" if "memory" in words:
            return Failure("OutOfMemory", f"The node threw the pod out: {words}. {ADVICE['OutOfMemory']}", pod.name)
        case "UnexpectedAdmissionError" if DEVICES.search(words):
            return Failure("DeviceNotFound", f"The node refused the pod: {words}. {ADVICE['DeviceNotFound']}", pod.name)
        case "Evicted" | "UnexpectedAdmissionError" | "NodeAffinity":
            return Failure("CrashLoop", f"The node threw the pod out: {words}.", pod.name)
    return None


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def of_deployment(observed: Observed) -> Failure | None:
    condition = observed.deployment_condition("ReplicaFailure")
    if condition.get("status") != "True":
        return None
    # The generated pod name in the message differs at every attempt and would cause a write each.
    message = re.sub(r'pods "[^"]*" ', "pods ", condition.get("message", ""))
    if "exceeded quota" in message:
        return Failure("QuotaExceeded", f"The namespace's quota does not allow another pod: {message}")
    return Failure("PolicyDenied", f"The cluster refuses to make the pod: {message}")


def of_pod(pod: Pod, draining: bool = False, trouble: Trouble | None = None, told: Json | None = None) -> Failure | None:
    """None while the pod is ready or simply on its way."""
    if pod.leaving or pod.ready:
        return None
    return _unscheduled(pod, draining) or _lost(pod) or _waiting(pod, told or {}) or _ended(pod) or _stuck(pod, trouble)


def _unscheduled(pod: Pod, draining: bool) -> Failure | None:
    condition = pod.condition("PodScheduled")
    if condition.get("status") != "False" or condition.get("reason") != "Unschedulable":
        return None
    # What the scheduler says of preemption changes with every attempt and helps nobody.
    message = condition.get("message", "").split(" preemption:")[0]
    if re.search(r"Insufficient \S*gpu", message):
        if draining:
            return Failure("WaitingForDrain", "A pod that is finishing its answers still holds the GPU.", pod.name)
        return Failure("InsufficientGPU", f"No node has a free GPU of the profile: {message}", pod.name)
    if "Insufficient memory" in message:
        return Failure("InsufficientMemory", f"No node has enough free memory: {message}", pod.name)
    claim = re.search(r'persistentvolumeclaim "([^"]+)" not found', message)
    if claim:
        return Failure("ClaimNotFound", f"There is no PersistentVolumeClaim {claim[1]} here; create it or change spec.model.", pod.name)
    if "unbound immediate PersistentVolumeClaims" in message:
        message = "a claim of its is not bound to a volume; `kubectl describe pvc` says why (often there is no such StorageClass)."
    return Failure("Unschedulable", f"No node takes the pod: {message}", pod.name)


def _lost(pod: Pod) -> Failure | None:
    """Only the node controller calls a pod not ready whose containers are: the node that would know has fallen silent."""
    condition = pod.condition("Ready")
    silent = condition.get("status") != "True" and pod.condition("ContainersReady").get("status") == "True"
    if not silent or condition.get("reason") == "ReadinessGatesNotReady":
        return None
    node = pod.body.get("spec", {}).get("nodeName", "")
    return Failure("NodeLost", f"The node {node} has fallen silent; Kubernetes makes another pod when it gives the node up.", pod.name)


def _waiting(pod: Pod, told: Json) -> Failure | None:
    waiting = pod.container.get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in PULL_ERRORS:
        return _unpulled(pod, reason, message, told)
    if reason == "CreateContainerError" and any("image" in volume for volume in pod.body.get("spec", {}).get("volumes", ())):
        # Older containerds do not understand the mount and stumble over its empty path.
        return Failure(
            "FeatureUnavailable",
            f"The node cannot mount an image, which oci:// models need (containerd 2.1): {message}",
            pod.name,
            contained=True,
        )
    if reason == "CreateContainerConfigError" and "failed to sync" in message:
        # The kubelet has not asked the server yet: it is about to say what it finds.
        return None
    if reason == "CreateContainerConfigError" and "secret" in message.lower():
        return Failure("SecretNotFound", f"{message}; create the Secret or correct the reference.", pod.name, contained=True)
    if reason in USUAL or not message or _never_ran(pod):
        return None
    return _cannot_be_made(pod, message)


def _unpulled(pod: Pod, reason: str, message: str, told: Json) -> Failure:
    """Older kubelets tell the cause at each attempt and not between two of them: what was told of this pod holds until another comes."""
    image = pod.spec_of_container.get("image") or "of the profile"
    words = pulls.sentence(image, reason, message)
    if not words and (told.get("reason"), told.get("pod")) == ("ImagePullError", pod.name):
        words = str(told.get("message", ""))
    words = words or f"The image {image} cannot be pulled; check its name, registry and spec.imagePullSecrets."
    return Failure("ImagePullError", words, pod.name, contained=True)


def _never_ran(pod: Pod) -> str:
    """Why the last attempt to run the container came to nothing, in the node's words; the kubelet tells it in two places by turns."""
    ended = pod.container.get("lastState", {}).get("terminated") or {}
    return str(ended.get("message", "")) if ended.get("reason") in ("StartError", "ContainerCannotRun") else ""


def _cannot_be_made(pod: Pod, message: str) -> Failure:
    words = NAMES_OF_AN_ATTEMPT.sub("...", " ".join(message.split()))
    if DEVICES.search(words):
        return Failure("DeviceNotFound", f"The container cannot be made: {words} {ADVICE['DeviceNotFound']}", pod.name, contained=True)
    return Failure("CrashLoop", f"The container cannot be made: {words}", pod.name, contained=True)


def _stuck(pod: Pod, trouble: Trouble | None) -> Failure | None:
    if trouble is None or not pod.stuck:
        return None
    message = NAMES_OF_AN_ATTEMPT.sub("...", trouble.message).rstrip(". ")
    if trouble.reason == "FailedCreatePodSandBox":
        return Failure("SandboxFailed", f"The node cannot set the pod up: {message}.", pod.name)
    return Failure("MountFailed", f"The node cannot mount a volume of the pod: {message}.", pod.name)


def _ended(pod: Pod) -> Failure | None:
    """From the newest exit. While the container runs again the old cause stays, until it is ready: a reason must not flicker."""
    status = pod.container
    ended = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")
    if not ended or (status.get("started") and "running" in status.get("state", {})):
        # It has been ready since, and misses a probe now: its old end says nothing of that.
        return None
    if never_ran := _never_ran(pod):
        return _cannot_be_made(pod, never_ran)
    code = int(ended.get("exitCode", 1))
    reason = _reason(code, ended.get("reason", ""), _lasted_as_long_as_a_start(pod, ended))
    return Failure(reason, _sentence(reason, code, ended, pod), pod.name, code, contained=True)


def _reason(code: int, word: str, timed_out: bool) -> str:
    if word == "OOMKilled":
        return "OutOfMemory"
    if code in STOPPED:
        return "StartupTimeout" if timed_out else "CrashLoop"
    return EXIT_CODES.get(code, "CrashLoop")


def _lasted_as_long_as_a_start(pod: Pod, ended: Json) -> bool:
    """Stopped when the startup probe's patience ended. Earlier or later somebody else did it: a liveness probe, the node, a person."""
    try:
        lived = (datetime.fromisoformat(ended["finishedAt"]) - datetime.fromisoformat(ended["startedAt"])).total_seconds()
    except (KeyError, TypeError, ValueError):
        # Kubernetes leaves them out, or null, where nobody saw the process begin.
        return False
    probe = pod.spec_of_container.get("startupProbe", {})
    patience = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
    grace = pod.body.get("spec", {}).get("terminationGracePeriodSeconds", 30)
    return bool(patience <= lived + 5 and lived <= patience + grace + 30)


def _sentence(reason: str, code: int, ended: Json, pod: Pod) -> str:
    if reason == "StartupTimeout":
        return f"The model was not ready in time and was stopped. {ADVICE[reason]}"
    lines = ended.get("message", "").strip().splitlines()
    # A last line of the log begins with its time, which would make each repetition look like something new.
    words = re.sub(LOG_PREFIX, "", lines[-1]).removeprefix(f"{reason}: ")[:1000] if lines else f"The runtime ended with exit code {code}."
    if code in STOPPED:
        words = f"The runtime was stopped or killed from outside (exit code {code})."
    if ended.get("reason") == "OOMKilled":
        words = "The pod used more memory than its limit and was killed."
    return f"{words} {_figures(reason, pod)}{ADVICE.get(reason, '')}".strip()


def _figures(reason: str, pod: Pod) -> str:
    """What the pod was told, and half of it: a first thing to try."""
    if reason not in ("OutOfMemory", "GPUOutOfMemory"):
        return ""
    args = pod.spec_of_container.get("args", [])
    told = dict(itertools.pairwise(args))
    ways = [
        f"{name} {int(told[flag]) // 2} (now {told[flag]})"
        for flag, name in (("--max-num-seqs", "maxNumSeqs"), ("--max-model-len", "maxModelLen"))
        if told.get(flag, "").isdigit() and int(told[flag]) > 1
    ]
    return f"Try {' or '.join(ways)}. " if ways else ""
