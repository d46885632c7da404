"""From a spec to what will really run: repository, profile, image, window. Pure; refuses with Rejected."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from jitney_operator import fit, permits
from jitney_operator.api import Json, ModelDeployment, Spec
from jitney_operator.catalogue import Catalogue, Model
from jitney_operator.errors import Rejected
from jitney_operator.fit import Estimate, Request
from jitney_operator.quantities import gib, size
from jitney_operator.settings import Profile, Settings
from jitney_operator.words import clipped

MOUNT = "/mnt/model"
# Flags that args may not give, with the field that sets them: the status would tell of the field, and the runtime do what the flag says.
# Every image is given the operator's own, so they mean the same in each.
FIELD_OF = {
    "--model": "spec.model",
    "--revision": "spec.revision",
    "--served-model-name": "spec.servedModelName",
    "--max-num-seqs": "spec.maxNumSeqs",
    "--max-model-len": "spec.maxModelLen",
    "--quantization": "spec.quantization",
    "--device": "spec.device",
    "--drain-seconds": "spec.rollout.drainSeconds",
}
# Where the operator and the kubelet look for the runtime and for its last words.
OPERATORS = {"--host", "--port", "--termination-log"}
# As much as the status has room for.
MOST_GPUS = 2**31 - 1


@dataclass(frozen=True)
class Resolved:
    """`model` is None where the shape is unknown: then nothing was estimated. `source` is the volume that holds the model, if one does.
    `hub` is where the administrator has it downloaded from; empty where nothing is, or nobody said."""

    reference: str
    source: Json | None
    image: str
    profile: Profile
    gpus: int
    model: Model | None
    estimate: Estimate | None
    max_model_len: int | None
    revision: str | None = None
    explanation: str = ""
    hub: str = ""

    def echo(self, mdep: ModelDeployment) -> Json:
        """status.resolved"""
        found: Json = {"generation": mdep.generation, "asks": mdep.asks, "servedModelName": mdep.spec.served_model_name}
        found |= {"repository": self.reference, "image": self.image}
        found |= {"profile": self.profile.name, "device": device_of(mdep.spec, self.profile), "gpus": self.gpus}
        if self.revision:
            found["revision"] = self.revision
        if self.model:
            found["size"] = self.model.size
        if self.max_model_len:
            found["maxModelLen"] = self.max_model_len
        if self.explanation:
            found["explanation"] = clipped(self.explanation, 1024)
        if self.estimate:
            parts = {"weights": self.estimate.weights, "kvCache": self.estimate.kv_cache, "overhead": self.estimate.overhead}
            found |= {"estimatedMemory": gib(self.estimate.total), "breakdown": {name: gib(value) for name, value in parts.items()}}
        return found


def resolve(mdep: ModelDeployment, settings: Settings, catalogue: Catalogue) -> Resolved:
    """What this generation means; Rejected when it cannot run."""
    spec, kept = mdep.spec, _kept(mdep)
    refuse_unavailable(mdep, settings)
    permits.check(spec, settings.allow)
    if not kept:
        refuse_flags_of_fields(spec)
    model, reference, source = _known(spec, kept, catalogue) if kept else find_model(spec, catalogue)
    request = Request(model, spec.max_num_seqs, spec.max_model_len, form(spec)) if model else None
    placed = _as_before(spec, kept, request, settings)
    if placed:
        (profile, estimate), explanation = placed, kept.get("explanation", "")
    else:
        tried = candidates(spec, settings)
        profile, estimate = place(spec, tried, request, settings)
        explanation = " ".join(filter(None, (_why(profile, tried, estimate, spec, settings), _narrowed(request, estimate))))
    # A pod that is made anew anyway is one of the image that this version counts.
    image = spec.image or (kept.get("image") if placed else None) or profile.image or settings.runtime_image
    revision = kept.get("revision") if kept else spec.revision or (model.revision if model else None)
    window = estimate.max_model_len if estimate else spec.max_model_len or kept.get("maxModelLen")
    hub = "" if source or spec.model.startswith("file://") else settings.hub_endpoint
    return Resolved(reference, source, image, profile, gpus_of(spec, profile), model, estimate, window, revision, explanation, hub)


def _known(spec: Spec, kept: Json, catalogue: Catalogue) -> tuple[Model | None, str, Json | None]:
    """What was found before, whatever the catalogue says now: another edition of it must not touch a model that runs."""
    if "size" not in kept:
        # Its shape was not known then.
        source = find_model(spec, catalogue)[2] if "://" in spec.model else None
        return None, kept["repository"], source
    try:
        model = find_model(replace(spec, size=spec.size or kept["size"]), catalogue)[0]
    except Rejected:
        model = None
    return model if model and model.repository == kept["repository"] else None, kept["repository"], None


def _as_before(spec: Spec, kept: Json, request: Request | None, settings: Settings) -> tuple[Profile, Estimate | None] | None:
    """The profile, window and estimate that this generation was accepted with, whatever this version counts: its pods are of the image of
    then. None where it has none, or the administrator made the profile too small."""
    profile = settings.profiles.get(kept.get("profile", ""))
    if profile is None or request is None:
        return (profile, None) if profile else None
    weights, kv_cache, overhead = (size(kept["breakdown"][part]) for part in ("weights", "kvCache", "overhead"))
    estimate = Estimate(kept["maxModelLen"], weights, kv_cache, overhead, size(kept["estimatedMemory"]))
    # One that was counted for the profile's GPU, before --device cpu was read, says nothing of the pod's memory.
    measured = kept["device"] == device_of(spec, profile)
    return (profile, estimate) if not measured or estimate.total <= memory_of(spec, profile) + fit.ROUNDED else None


def form(spec: Spec) -> str:
    """What the weights are kept as, in the words of `fit`. The person's own flags, in both spellings, can ask for wider ones; so can
    JITNEY_DTYPE and JITNEY_KERNEL, where no flag does."""
    if spec.quantization != "none":
        return spec.quantization
    found = {entry["name"]: entry.get("value") for entry in spec.env}
    flags = _flags(spec)
    dtype, kernel = (flags.get(f"--{name}") or found.get(f"JITNEY_{name.upper()}") or "auto" for name in ("dtype", "kernel"))
    if dtype != "float32" and kernel in ("plain", "onednn"):
        return "plain" if dtype == "auto" else "narrow"
    return "float32" if dtype == "float32" else "none"


def _flags(spec: Spec) -> dict[str, str]:
    """What args say, in both spellings; of several the last one holds."""
    return dict(pairwise(part for argument in spec.args for part in argument.split("=", 1)))


def device_of(spec: Spec, profile: Profile) -> str:
    """Where the model computes: --device cpu in args leaves the profile's GPU idle, which then may be one on paper."""
    return "cpu" if _flags(spec).get("--device") == "cpu" else profile.device


def _why(profile: Profile, tried: tuple[Profile, ...], estimate: Estimate | None, spec: Spec, settings: Settings) -> str:
    """Why this profile was chosen for the person; empty where the person named it."""
    passed_over = tried[: tried.index(profile)]
    if spec.profile is not None:
        return ""
    if passed_over:
        return f"{_measured(spec, profile)} holds the model and {', '.join(_measured(spec, other) for other in passed_over)} would not."
    if profile.name == settings.default_profile:
        return f"{profile.name} is the administrator's default."
    if not estimate:
        return f"{profile.name} ({gib(profile.memory)}) is the smallest; what the model needs is not known."
    return f"{_measured(spec, profile)} is the smallest that holds it."


def _measured(spec: Spec, profile: Profile) -> str:
    """With the memory that it was measured by, and whose that is."""
    whose = " by resources.limits.memory" if _limits_itself(spec, profile) else ""
    return f"{profile.name} ({gib(memory_of(spec, profile))}{whose})"


def _narrowed(request: Request | None, estimate: Estimate | None) -> str:
    """That the window was made smaller for the person."""
    if not request or not estimate or request.max_model_len or estimate.max_model_len >= request.model.context:
        return ""
    return f"The context window is {estimate.max_model_len} of {request.model.context} tokens, which is what the memory holds."


def refuse_unavailable(mdep: ModelDeployment, settings: Settings) -> None:
    """What this installation lacks is refused aloud, not ignored."""
    spec = mdep.spec
    if spec.autoscaling and spec.autoscaling.least == 0 and not settings.wakes(mdep.key.namespace):
        raise Rejected(
            "FeatureUnavailable",
            f"autoscaling.minReplicas 0 needs a front door that wakes the model, and none serves the namespace {mdep.key.namespace}: set "
            "it to 1 or more, or have the chart's front door serve the namespace (gateway.enabled, gateway.namespaces).",
        )


def refuse_flags_of_fields(spec: Spec) -> None:
    """The runtime takes no abbreviated flags."""
    for flag in (argument.partition("=")[0] for argument in spec.args):
        if flag in OPERATORS:
            raise Rejected("NotAllowed", f"spec.args: {flag} is the operator's own: take it out.")
        if flag in FIELD_OF and not (flag == "--device" and _flags(spec).get(flag) == "cpu"):
            raise Rejected("NotAllowed", f"spec.args: {flag} is set by {FIELD_OF[flag]}: take it out, and set that field.")


def place(spec: Spec, profiles: tuple[Profile, ...], request: Request | None, settings: Settings) -> tuple[Profile, Estimate | None]:
    """The first of these that holds what is asked for; Rejected says what would fit. What is not known is not measured."""
    if request is None:
        return profiles[0], None
    request.check()
    for profile in profiles:
        estimate = _held(request, spec, profile)
        if estimate:
            return profile, estimate
    largest = max(profiles, key=lambda profile: memory_of(spec, profile))
    others = (profile for profile in _of_device(spec, settings) if profile not in profiles)
    fitting = tuple(_measured(spec, profile) for profile in others if _held(request, spec, profile))
    raise fit.refusal(request, device_of(spec, largest), memory_of(spec, largest), fitting, _limits_itself(spec, largest))


def _held(request: Request, spec: Spec, profile: Profile) -> Estimate | None:
    return fit.within(request, device_of(spec, profile), memory_of(spec, profile))


def candidates(spec: Spec, settings: Settings) -> tuple[Profile, ...]:
    """The named profile alone; without a name the administrator's default, if there is one, and then the others from the smallest on."""
    names = ", ".join(settings.profiles)
    if spec.profile is not None:
        return (_named_profile(spec, settings, names),)
    found, default = _of_device(spec, settings), settings.default_profile
    if not found:
        raise Rejected("ProfileNotFound", f"No profile has the device {spec.device}; the administrator's profiles are {names}.")
    return tuple(sorted(found, key=lambda profile: (profile.name != default, profile.gpus, profile.memory)))


def _of_device(spec: Spec, settings: Settings) -> list[Profile]:
    return [profile for profile in settings.profiles.values() if spec.device in ("auto", profile.device)]


def _named_profile(spec: Spec, settings: Settings, names: str) -> Profile:
    found = settings.profiles.get(spec.profile or "")
    if found is None:
        raise Rejected("ProfileNotFound", f"There is no profile {spec.profile}; set spec.resourceProfile to one of {names}.")
    if spec.device not in ("auto", found.device):
        raise Rejected(
            "ProfileNotFound", f"The profile {found.name} has the device {found.device}, not {spec.device}; change one of the two."
        )
    return found


def find_model(spec: Spec, catalogue: Catalogue) -> tuple[Model | None, str, Json | None]:
    """Its shape when known, the reference for the runtime, and the volume to mount."""
    if spec.model.startswith("pvc://"):
        claim, _, path = spec.model.removeprefix("pvc://").partition("/")
        return None, f"{MOUNT}/{path}".rstrip("/"), {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
    if spec.model.startswith("oci://"):
        return None, MOUNT, {"image": {"reference": spec.model.removeprefix("oci://"), "pullPolicy": "IfNotPresent"}}
    if spec.model.startswith("file://"):
        return None, spec.model.removeprefix("file://"), None
    repository = spec.model.removeprefix("hf://")
    if "/" in repository:
        return catalogue.by_repository(repository), repository, None
    model = catalogue.find(repository, spec.size)
    return model, model.repository, None


def memory_of(spec: Spec, profile: Profile) -> int:
    """Bytes the model may take: the GPU's, or the pod's limit where the person set another one, or leaves the GPU idle."""
    if device_of(spec, profile) == "cuda":
        return profile.memory
    limits = compute(spec, profile).get("limits", {})
    # A profile's memory is that of its GPU, or what the administrator counts with on a CPU.
    limited = "memory" in limits and (profile.device == "cuda" or _limits_itself(spec, profile))
    return _amount(limits, "memory") if limited else profile.memory


def _limits_itself(spec: Spec, profile: Profile) -> bool:
    """The model is measured by the resource's own limit, not by the profile's memory."""
    return device_of(spec, profile) == "cpu" and "memory" in spec.resources.get("limits", {})


def compute(spec: Spec, profile: Profile) -> dict[str, dict[str, str]]:
    """The container's requests and limits: the person's replace the profile's, name by name."""
    gpus = {profile.gpu_resource: profile.gpus} if profile.gpus else {}
    wanted = {
        "requests": profile.requests | gpus | spec.resources.get("requests", {}),
        "limits": profile.limits | gpus | spec.resources.get("limits", {}),
    }
    return {name: {key: str(value) for key, value in amounts.items()} for name, amounts in wanted.items() if amounts}


def gpus_of(spec: Spec, profile: Profile) -> int:
    """How many one pod holds, whole ones and parts (nvidia.com/mig-1g.10gb)."""
    limits = compute(spec, profile).get("limits", {})
    names = (name for name in limits if name == profile.gpu_resource or name.startswith("nvidia.com/"))
    return min(MOST_GPUS, sum(_amount(limits, name) for name in names))


def _amount(limits: dict[str, str], name: str) -> int:
    try:
        return size(limits[name])
    except ValueError as error:
        raise Rejected("DoesNotFit", f"resources.limits.{name}: {error}.") from error


def _kept(mdep: ModelDeployment) -> Json:
    """What this spec came to mean when it was accepted: an upgraded operator or another configuration restarts nothing, nor does scaling
    after an upgrade. But for an image that could not be pulled and serves nobody: that was perhaps put right since."""
    kept: Json = mdep.status.get("resolved") or {}
    if kept.get("asks") != mdep.asks and kept.get("generation", _accepted_generation(mdep)) != mdep.generation:
        return {}
    return {name: value for name, value in kept.items() if name != "image"} if _cannot_be_pulled(mdep) else kept


def _cannot_be_pulled(mdep: ModelDeployment) -> bool:
    reasons = {entry["type"]: entry["reason"] for entry in mdep.status.get("conditions", ())}
    return (reasons.get("ModelLoaded"), reasons.get("Available")) == ("ImagePullError", "NoReadyReplica")


def _accepted_generation(mdep: ModelDeployment) -> int | None:
    """For what 0.1.0 resolved, which did not write down of which generation it was."""
    accepted: Json = next((entry for entry in mdep.status.get("conditions", ()) if entry["type"] == "Accepted"), {})
    return accepted.get("observedGeneration") if accepted.get("status") == "True" else None
