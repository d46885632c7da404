"""Every reason a condition may have: what it means and what to do. No condition can be made with another; docs/status.md is this table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reason:
    """`conditions` it may stand on, besides Ready, which takes over the first that explains it."""

    conditions: tuple[str, ...]
    means: str
    do: str


_NOTHING = "Nothing."
_WAIT = "Wait; the reason changes by itself."

REASONS: dict[str, Reason] = {
    "Pending": Reason(("Scheduled", "ModelLoaded"), "The operator, the scheduler or the pods have not come to it yet.", _WAIT),
    # Accepted
    "Fits": Reason(("Accepted",), "Weights, keys and values and overhead fit the profile; `status.resolved` has the figures.", _NOTHING),
    "ShapeUnknown": Reason(
        ("Accepted",),
        "The model is not in the catalogue, so whether it fits was not checked.",
        "Nothing, or set maxModelLen and maxNumSeqs so that it surely does.",
    ),
    "ModelNotFound": Reason(
        ("Accepted", "ModelLoaded"),
        "The catalogue, the hub, the claim or the image has no such model.",
        "Correct `spec.model` or `spec.revision`; the message lists what there is.",
    ),
    "SizeNotFound": Reason(
        ("Accepted",), "The catalogue has the model, and not in this size.", "Set `spec.size` to one that the message lists."
    ),
    "DoesNotFit": Reason(
        ("Accepted",),
        "The model needs more memory than the profile gives; nothing was scheduled.",
        "Take what the message says would fit: a smaller maxModelLen or maxNumSeqs, a bigger profile, or a quantization.",
    ),
    "ProfileNotFound": Reason(
        ("Accepted",), "No profile has this name or device.", "Set `spec.resourceProfile` to one that the message lists."
    ),
    "NotAllowed": Reason(
        ("Accepted",),
        "The administrator's values do not allow this image, variable or folder, or `spec.args` has a flag that a field sets.",
        "Choose an allowed one, or ask for it; set the field that the message names.",
    ),
    "NameConflict": Reason(
        ("Accepted",),
        "An object that is not ours, or an earlier resource's that is not removed yet, has a name we need.",
        "Remove it (the message names finalizers that hold it), or give the ModelDeployment another name.",
    ),
    "NotSupportedYet": Reason(
        ("ModelLoaded",),
        "This version cannot do what the spec or the model asks for.",
        "Take what the message says would do, leave the field out, or choose another model.",
    ),
    "FeatureUnavailable": Reason(
        ("Accepted", "ModelLoaded"),
        "This cluster or installation lacks what the spec needs; the message says what.",
        "Install it, or leave the field out.",
    ),
    "ChildRefused": Reason(
        ("Accepted",),
        "The API server refuses a child that this spec leads to; the message is the server's. Stalled where it calls the child "
        "invalid, and not where a right, a quota or a webhook is in the way.",
        "Correct the field that the message names (often resources, scheduling or image), give the operator the right that it lacks, or "
        "put right the admission webhook that does not answer.",
    ),
    # Scheduled
    "Placed": Reason(("Scheduled",), "Every wanted pod has a node.", _NOTHING),
    "InsufficientGPU": Reason(
        ("Scheduled",), "No node has a free GPU of the profile.", "Add a node, free a GPU, or choose another profile."
    ),
    "InsufficientMemory": Reason(
        ("Scheduled",), "No node has the memory that the pod requests.", "Add a node, or choose a smaller profile or model."
    ),
    "Unschedulable": Reason(
        ("Scheduled",),
        "No node takes the pod; the message is the scheduler's.",
        "Check `spec.scheduling` and the profile against the nodes.",
    ),
    "WaitingForDrain": Reason(
        ("Scheduled",),
        "A pod that is finishing its answers on a living node still holds the GPU, or must be gone first (Recreate).",
        "Wait at most `drainSeconds`.",
    ),
    "QuotaExceeded": Reason(("Scheduled",), "The namespace's quota does not allow another pod.", "Raise the quota, or ask for less."),
    "PolicyDenied": Reason(("Scheduled",), "The cluster refuses to make the pod.", "The message says which policy and why."),
    "PodEvicted": Reason(
        ("Scheduled",),
        "The node threw the pod out or would not have it; the message has its words.",
        "Look after the node; another pod is made.",
    ),
    "NodeLost": Reason(
        ("Scheduled",),
        "The node of a pod that was ready has fallen silent. Of one on its way `status.progress` says that it does not answer.",
        "Look after the node; Kubernetes makes another pod in time.",
    ),
    # ModelLoaded
    "Loaded": Reason(("ModelLoaded",), "The pods hold the weights.", _NOTHING),
    "Downloading": Reason(("ModelLoaded",), "A pod is fetching the weights; `status.progress` says how far it is.", _WAIT),
    "Loading": Reason(("ModelLoaded",), "A pod is reading the weights; `status.progress` says how far it is.", _WAIT),
    "WarmingUp": Reason(("ModelLoaded",), "A pod is running the model for the first time.", _WAIT),
    "ImagePullError": Reason(
        ("ModelLoaded",), "The runtime's image cannot be pulled.", "Check its name, the registry and `spec.imagePullSecrets`."
    ),
    "SecretNotFound": Reason(("ModelLoaded",), "A Secret or a key of it is missing.", "Create it, or correct the reference."),
    "ConfigMapNotFound": Reason(
        ("ModelLoaded",), "A ConfigMap or a key of it is missing.", "Create it, or correct the reference in `spec.env`."
    ),
    "ClaimNotFound": Reason(
        ("ModelLoaded",), "There is no such PersistentVolumeClaim.", "Create it, or correct `spec.model` or `spec.cache`."
    ),
    "MountFailed": Reason(
        ("ModelLoaded",),
        "The pod has a node, which cannot mount one of its volumes.",
        "The message says which and why: check the claim of `spec.model` or `spec.cache` and the storage behind it.",
    ),
    "SandboxFailed": Reason(
        ("ModelLoaded",), "The node cannot set the pod up: its network, its runtime class.", "The message is the node's; look after it."
    ),
    "Unauthorized": Reason(
        ("ModelLoaded",), "The hub refuses the model: it is private or gated.", "Accept its licence and set `spec.hfTokenSecretRef`."
    ),
    "HubUnreachable": Reason(
        ("ModelLoaded",),
        "The pod cannot reach the hub.",
        "Check the network path from the pods to the hub, or have the administrator name a mirror of it (`config.hubEndpoint`).",
    ),
    "DiskFull": Reason(
        ("ModelLoaded",),
        "The weights do not fit the disk.",
        "Where `spec.cache` is a claim, let that grow (`kubectl edit pvc`; the one made here is NAME-cache) or name a bigger one; else set "
        "a bigger `spec.cache.size`, or give the nodes more ephemeral storage.",
    ),
    "ModelDamaged": Reason(
        ("ModelLoaded",),
        "A file of the model is cut off, changed or missing; the message says which.",
        "Copy or download the model again.",
    ),
    "CacheNotWritable": Reason(
        ("ModelLoaded",),
        "The pod may not write to the volume of `spec.cache`.",
        "Let user 65532 write there. A HostPath that the kubelet made is root's: `chown 65532:65532` it on the node.",
    ),
    "OutOfMemory": Reason(
        ("ModelLoaded",),
        "The pod's memory is too small.",
        "Lower maxNumSeqs or maxModelLen, or take a smaller size, a quantization or a bigger profile. On a node without AVX2 the "
        "operator's count holds only with `--dtype float32` in `spec.args`.",
    ),
    "GPUOutOfMemory": Reason(
        ("ModelLoaded",),
        "The GPU's memory is too small.",
        "Lower maxNumSeqs or maxModelLen, or take a smaller size, a quantization or a bigger GPU.",
    ),
    "DeviceNotFound": Reason(
        ("ModelLoaded",), "The pod shall use a GPU and finds none.", "Check the node's driver and device plugin, or set `device: cpu`."
    ),
    "CrashLoop": Reason(
        ("ModelLoaded",),
        "The runtime ends again and again, or its container cannot be made; the message has its last words, or the node's.",
        "Act on the words.",
    ),
    "NotAnswering": Reason(
        ("ModelLoaded",),
        "A pod was ready and does not answer its readiness probe; the message says what it says of itself.",
        "Look at its log and its load. Kubernetes restarts it where its liveness probe fails too.",
    ),
    "StartupTimeout": Reason(
        ("ModelLoaded",), "The model was not ready in time and was stopped.", "Raise `spec.startupTimeoutSeconds` if it needs longer."
    ),
    # Available
    "Serving": Reason(("Available",), "At least one pod answers chat requests, perhaps of the revision before.", _NOTHING),
    "NoReadyReplica": Reason(("Available",), "No pod answers chat requests.", "The other conditions say why."),
    "Suspended": Reason(("ModelLoaded", "Available"), "`spec.suspend` is set: no pod is wanted.", "Set it to false to serve again."),
    "ScaledToZero": Reason(
        ("ModelLoaded", "Available"),
        "`spec.replicas` is 0, or `autoscaling.minReplicas` is and nobody asked for the whole delay: no pod is wanted.",
        "Ask through a front door, which wakes it; without autoscaling scale up to serve again.",
    ),
    # Progressing
    "RollingOut": Reason(("Progressing",), "Pods are being started or replaced.", _WAIT),
    "Complete": Reason(("Progressing",), "Nothing is being rolled out.", _NOTHING),
    "AutoscalerUnknown": Reason(
        ("Progressing",),
        "`spec.autoscaling` is set, and the operator cannot see whether a HorizontalPodAutoscaler or KEDA has the say: the replicas stay "
        "as they are.",
        "Act on the message: mostly the operator's role lacks list and watch of horizontalpodautoscalers (autoscaling) or scaledobjects "
        "(keda.sh).",
    ),
    "DeadlineExceeded": Reason(
        ("Progressing",),
        "The rollout did not finish in time, which is five minutes more than a start may take; gone when a pod moves again.",
        "The other conditions say what is in the way.",
    ),
    # Ready
    "Ready": Reason((), "Every wanted replica of the current generation answers chat requests.", _NOTHING),
}

# Retrying cannot help against these, or has not helped in time; somebody has to act.
STALLING = {
    "ModelNotFound", "SizeNotFound", "DoesNotFit", "ProfileNotFound", "NotAllowed", "NameConflict", "NotSupportedYet", "FeatureUnavailable",
    "Unauthorized", "DeadlineExceeded",
}  # fmt: skip
# Only where the API server calls the child invalid.
STALLING_IF_INVALID = {"ChildRefused"}


def page() -> str:
    """docs/status.md"""
    stalling = STALLING | STALLING_IF_INVALID
    rows = [
        f"| {name} | {', '.join(reason.conditions) or 'Ready'}{', Stalled' if name in stalling else ''} | {reason.means} | {reason.do} |"
        for name, reason in sorted(REASONS.items())
    ]
    return "\n".join([_HEAD, *rows, ""])


_HEAD = """\
# What the status says

`kubectl get mdep` shows one word, `kubectl describe mdep` the sentence behind it. The word is the reason of the condition Ready, which
takes over the first of the other conditions that explains it. `status.lastFailure` keeps pod, container, exit code and message of the last
failure.

The status follows what Kubernetes knows within 5 seconds. Two causes nobody tells, so that they are asked for: why a volume or a sandbox is
not ready stands in Events, which are listed every 3 seconds while a pod waits (in 8 namespaces at once: with hundreds it takes longer, and
what is told of a pod stays until an Event names another cause or its sandbox is there), and what the cluster refused (NameConflict,
ChildRefused) is tried again every 4 seconds. Between a new generation and the operator's first look the columns still show the word of the
one before: wait for `observedGeneration`, as `kubectl wait` and everything that knows kstatus do.

What to do about a condition is said of its reason, in the second table; its message, and `status.lastFailure`, name the pod to look at
(`kubectl logs --previous`, `kubectl describe pod`). ModelLoaded and Scheduled come first: most others follow from them.

| condition | True means |
|---|---|
| Accepted | the spec resolves and fits a profile |
| Scheduled | every wanted pod has a node |
| ModelLoaded | the current revision's pods hold the weights |
| Available | at least one pod answers chat requests, perhaps of the revision before |
| Progressing | a rollout or a change of scale is under way |
| Ready | the status is of the newest generation, and every wanted replica of it is ready; also True while suspended or scaled to zero |
| Stalled | present, and True, only when retrying cannot help, or did not help in the time that a rollout has |

Besides its own reasons Ready has those of the first three that are not True, Progressing that of a refusal (`Accepted` is False), and
Stalled the one that only a person can act on.

Each change of what Ready says is one Event, with its reason and message. So is, while Ready stays as it was, a change of Progressing (a
rollout that runs out of time behind a revision that still serves) and of who answers (Serving, NoReadyReplica). What changes at the same
moment is one Event, and what Accepted, Scheduled and ModelLoaded say is told by Ready, which takes over the first that counts.
Events are best effort, as everywhere in Kubernetes: one that cannot be posted is posted later, and one that was not posted yet when the
operator was killed is lost. The status is what counts, and loses nothing.

| reason | on | it means | what to do |
|---|---|---|---|"""

if __name__ == "__main__":
    print(page(), end="")
