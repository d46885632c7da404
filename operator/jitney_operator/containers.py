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
# The kubelet names what it misses, or where a key is missing; what the thing itself is called says nothing.
MISSING = re.compile(r"^(?:couldn't find key \S+ in )?(secret|configmap)\b", re.IGNORECASE)
# containerd before 2.1 does not understand the mount of an image, and stumbles over its empty path.
NO_IMAGE_VOLUMES = "mkdir : no such file"
# Ids of containers and sandboxes tell a person nothing.
NAMES_OF_AN_ATTEMPT = re.compile(r"\b[0-9a-f]{32,}\b")


def waiting(pod: Pod, told: Json) -> Failure | None:
    waiting = pod.container.get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in PULL_ERRORS:
        return _unpulled(pod, reason, message, told)
    if reason == "CreateContainerError" and _image_volumes(pod) and NO_IMAGE_VOLUMES in message:
        return Failure(
            "FeatureUnavailable",
            f"The node cannot mount an image, which oci:// models need (containerd 2.1): {message}",
            pod.name,
            contained=True,
        )
    if reason == "CreateContainerConfigError" and "failed to sync" in message:
        # The kubelet has not asked the server yet, or not again: what was told of this pod holds until it says what it finds.
        return _told(pod, told, "SecretNotFound", "ConfigMapNotFound")
    if reason == "CreateContainerConfigError" and (missing := MISSING.search(message)):
        kind = "ConfigMap" if missing[1].lower() == "configmap" else "Secret"
        return Failure(f"{kind}NotFound", f"{message}; create the {kind} or correct the reference.", pod.name, contained=True)
    if reason in USUAL or not message or never_ran(pod):
        return None
    return cannot_be_made(pod, message)


def _told(pod: Pod, told: Json, *reasons: str) -> Failure | None:
    """What was told of this pod, if it was one of these."""
    if told.get("pod") != pod.name or told.get("reason") not in reasons:
        return None
    return Failure(told["reason"], str(told.get("message", "")), pod.name, contained="container" in told)


def _unpulled(pod: Pod, reason: str, message: str, told: Json) -> Failure:
    """Older kubelets tell the cause at each attempt and not between two of them: what was told of this image holds until another comes."""
    image = next((name for name in _image_volumes(pod) if f'"{name}"' in message), pod.spec_of_container.get("image") or "of the profile")
    words = pulls.sentence(image, reason, message)
    if not words and told.get("reason") == "ImagePullError" and image in str(told.get("message", "")):
        words = str(told.get("message", ""))
    words = words or f"The image {image} cannot be pulled; check its name, registry and spec.imagePullSecrets."
    return Failure("ImagePullError", words, pod.name, contained=True)


def _image_volumes(pod: Pod) -> list[str]:
    """References of the images that it mounts."""
    return [str(volume["image"].get("reference", "")) for volume in pod.body.get("spec", {}).get("volumes", ()) if "image" in volume]


def never_ran(pod: Pod) -> str:
    """Why the last attempt to run the container came to nothing, in the node's words; the kubelet tells it in two places by turns."""
    ended = pod.container.get("lastState", {}).get("terminated") or {}
    return str(ended.get("message", "")) if ended.get("reason") in ("StartError", "ContainerCannotRun") else ""


def cannot_be_made(pod: Pod, message: str) -> Failure:
    words = NAMES_OF_AN_ATTEMPT.sub("...", " ".join(message.split()))
    if DEVICES.search(words):
        return Failure("DeviceNotFound", f"The container cannot be made: {words} {ADVICE['DeviceNotFound']}", pod.name, contained=True)
    return Failure("CrashLoop", f"The container cannot be made: {words}", pod.name, contained=True)


def stuck(pod: Pod, trouble: Trouble | None, told: Json) -> Failure | None:
    """`told` of this pod holds until Events have been asked for, as after a restart of the operator."""
    if not pod.stuck:
        return None
    if trouble is None:
        return None if pod.container.get("lastState") else _told(pod, told, "MountFailed", "SandboxFailed")
    message = NAMES_OF_AN_ATTEMPT.sub("...", trouble.message).rstrip(". ")
    if trouble.reason == "FailedCreatePodSandBox":
        return Failure("SandboxFailed", f"The node cannot set the pod up: {message}.", pod.name)
    return Failure("MountFailed", f"The node cannot mount a volume of the pod: {message}.", pod.name)
