"""Why a container does not come to run: its image, its configuration, its volumes, its device. Pure."""

from __future__ import annotations

import re

from jitney_operator import pulls
from jitney_operator.api import Json
from jitney_operator.failure import ADVICE, Failure
from jitney_operator.observed import Pod, Trouble
from jitney_operator.placing import DEVICES

# Waiting for these is the way of every pod, or told by the newest exit.
USUAL = {"ContainerCreating", "PodInitializing", "CrashLoopBackOff", ""}
PULL_ERRORS = {
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "SignatureValidationFailed",
}  # fmt: skip
# Names of one attempt would make each of them look like something new.
NAMES_OF_AN_ATTEMPT = re.compile(r"\b[0-9a-f]{32,}\b")


def waiting(pod: Pod, told: Json) -> Failure | None:
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
    if reason in USUAL or not message or never_ran(pod):
        return None
    return cannot_be_made(pod, message)


def _unpulled(pod: Pod, reason: str, message: str, told: Json) -> Failure:
    """Older kubelets tell the cause at each attempt and not between two of them: what was told of this pod holds until another comes."""
    image = pod.spec_of_container.get("image") or "of the profile"
    words = pulls.sentence(image, reason, message)
    if not words and (told.get("reason"), told.get("pod")) == ("ImagePullError", pod.name):
        words = str(told.get("message", ""))
    words = words or f"The image {image} cannot be pulled; check its name, registry and spec.imagePullSecrets."
    return Failure("ImagePullError", words, pod.name, contained=True)


def never_ran(pod: Pod) -> str:
    """Why the last attempt to run the container came to nothing, in the node's words; the kubelet tells it in two places by turns."""
    ended = pod.container.get("lastState", {}).get("terminated") or {}
    return str(ended.get("message", "")) if ended.get("reason") in ("StartError", "ContainerCannotRun") else ""


def cannot_be_made(pod: Pod, message: str) -> Failure:
    words = NAMES_OF_AN_ATTEMPT.sub("...", " ".join(message.split()))
    if DEVICES.search(words):
        return Failure("DeviceNotFound", f"The container cannot be made: {words} {ADVICE['DeviceNotFound']}", pod.name, contained=True)
    return Failure("CrashLoop", f"The container cannot be made: {words}", pod.name, contained=True)


def stuck(pod: Pod, trouble: Trouble | None) -> Failure | None:
    if trouble is None or not pod.stuck:
        return None
    message = NAMES_OF_AN_ATTEMPT.sub("...", trouble.message).rstrip(". ")
    if trouble.reason == "FailedCreatePodSandBox":
        return Failure("SandboxFailed", f"The node cannot set the pod up: {message}.", pod.name)
    return Failure("MountFailed", f"The node cannot mount a volume of the pod: {message}.", pod.name)
