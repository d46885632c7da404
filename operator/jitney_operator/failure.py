"""One cause that keeps a pod from serving: a reason of ours, and a sentence for a person."""

from __future__ import annotations

from dataclasses import dataclass

from jitney_operator.api import CONTAINER, Json

ADVICE = {
    "ModelNotFound": "Check spec.model and spec.revision.",
    "Unauthorized": "Accept the model's licence on the hub and set spec.hfTokenSecretRef.",
    "HubUnreachable": "Check the network path from the pods to the hub.",
    "DiskFull": "Where spec.cache is a claim, let that grow (`kubectl edit pvc`; the one made here is NAME-cache) or name a bigger one; "
    "else set a bigger spec.cache.size, or give the nodes more ephemeral storage.",
    "PodEvicted": "Look after the node; Kubernetes has made another pod.",
    "CacheNotWritable": "Let that user write to the volume of spec.cache; a folder of a node is given away with `chown 65532:65532`.",
    "OutOfMemory": "Lower maxNumSeqs or maxModelLen, choose a smaller size, a quantization, or a profile with more memory.",
    "GPUOutOfMemory": "Lower maxNumSeqs or maxModelLen, choose a smaller size, a quantization, or a profile with a bigger GPU.",
    "DeviceNotFound": "Check that the profile's nodes have a GPU and its driver, or set device to cpu.",
    "StartupTimeout": "Raise spec.startupTimeoutSeconds if the model needs longer to load.",
}
SCHEDULING = {
    "InsufficientGPU",
    "InsufficientMemory",
    "Unschedulable",
    "WaitingForDrain",
    "QuotaExceeded",
    "PolicyDenied",
    "NodeLost",
    "PodEvicted",
}


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
