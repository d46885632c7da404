"""From a spec to what will really run: repository, profile, image, window. Pure; refuses with Rejected."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jitney_operator import fit, permits
from jitney_operator.api import Json, ModelDeployment, Spec
from jitney_operator.catalogue import Catalogue, Model
from jitney_operator.errors import Rejected
from jitney_operator.fit import Estimate, Request
from jitney_operator.quantities import gib, size
from jitney_operator.settings import Profile, Settings
from jitney_operator.words import clipped

MOUNT = "/mnt/model"


@dataclass(frozen=True)
class Resolved:
    """`model` is None where the shape is unknown: then nothing was estimated. `source` is the volume that holds the model, if one does."""

    reference: str
    source: Json | None
    image: str
    profile: Profile
    model: Model | None
    estimate: Estimate | None
    max_model_len: int | None
    revision: str | None = None
    explanation: str = ""

    @property
    def device(self) -> str:
        return self.profile.device

    def echo(self, mdep: ModelDeployment) -> Json:
        """status.resolved"""
        found: Json = {"generation": mdep.generation, "asks": mdep.asks, "servedModelName": mdep.spec.served_model_name}
        found |= {"repository": self.reference, "image": self.image}
        found |= {"profile": self.profile.name, "device": self.device, "gpus": self.profile.gpus}
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
    model, reference, source = _known(spec, kept, catalogue) if kept else find_model(spec, catalogue)
    request = Request(model, spec.max_num_seqs, spec.max_model_len, spec.quantization) if model else None
    placed = _as_before(spec, kept, request, settings)
    if placed:
        (profile, estimate), explanation = placed, kept.get("explanation", "")
    else:
        tried = candidates(spec, settings)
        profile, estimate = place(spec, tried, request, settings)
        explanation = explain(spec, profile, tried[: tried.index(profile)], request, estimate, settings)
    image = spec.image or kept.get("image") or profile.image or settings.runtime_image
    revision = kept.get("revision") if kept else spec.revision or (model.revision if model else None)
    window = estimate.max_model_len if estimate else spec.max_model_len or kept.get("maxModelLen")
    return Resolved(reference, source, image, profile, model, estimate, window, revision, explanation)


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
    """The profile and window that this generation has already; None where it has none, or the administrator made the profile too small or
    gave it a device that does not serve it."""
    profile = settings.profiles.get(kept.get("profile", ""))
    if profile and not fit.serves(profile.device, spec.quantization):
        return None
    if profile is None or request is None:
        return (profile, None) if profile else None
    held = replace(request, max_model_len=request.max_model_len or kept.get("maxModelLen"))
    estimate = fit.within(held, profile.device, memory_of(spec, profile))
    return (profile, estimate) if estimate else None


def explain(
    spec: Spec, profile: Profile, passed_over: tuple[Profile, ...], request: Request | None, estimate: Estimate | None, settings: Settings
) -> str:
    """What was chosen for the person, and why; empty where nothing was."""
    parts = []
    devices = {other.device for other in settings.profiles.values()} if (spec.profile, spec.device) == (None, "auto") else set()
    if not all(fit.serves(device, spec.quantization) for device in devices):
        parts.append(f"Profiles with a GPU were left out because quantization {spec.quantization} is served on a CPU.")
    if passed_over:
        names = ", ".join(f"{other.name} ({gib(other.memory)})" for other in passed_over)
        parts.append(f"{profile.name} ({gib(profile.memory)}) holds the model and {names} would not.")
    if request and estimate and not request.max_model_len and estimate.max_model_len < request.model.context:
        parts.append(f"The context window is {estimate.max_model_len} of {request.model.context} tokens, which is what the memory holds.")
    return " ".join(parts)


def refuse_unavailable(mdep: ModelDeployment, settings: Settings) -> None:
    """What this installation lacks is refused aloud, not ignored."""
    spec = mdep.spec
    if spec.autoscaling and spec.autoscaling.least == 0 and not settings.wakes(mdep.key.namespace):
        raise Rejected(
            "FeatureUnavailable",
            f"autoscaling.minReplicas 0 needs a front door that wakes the model, and none serves the namespace {mdep.key.namespace}: set "
            "it to 1 or more, or have the chart's front door serve the namespace (gateway.enabled, gateway.namespaces).",
        )


def place(spec: Spec, profiles: tuple[Profile, ...], request: Request | None, settings: Settings) -> tuple[Profile, Estimate | None]:
    """The first of these that holds what is asked for; Rejected says what would fit. What is not known is not measured."""
    if request is None:
        return profiles[0], None
    request.check()
    for profile in profiles:
        estimate = fit.within(request, profile.device, memory_of(spec, profile))
        if estimate:
            return profile, estimate
    largest = max(profiles, key=lambda profile: profile.memory)
    others = (profile for profile in _serving(spec, settings) if profile not in profiles)
    fitting = tuple(
        f"{profile.name} ({gib(profile.memory)})" for profile in others if fit.within(request, profile.device, memory_of(spec, profile))
    )
    if spec.quantization != "none":
        plain, whole = replace(spec, quantization="none"), replace(request, quantization="none")
        fitting += tuple(
            f"{profile.name} ({gib(profile.memory)}) with quantization none"
            for profile in _serving(plain, settings)
            if profile.device != "cpu" and fit.within(whole, profile.device, memory_of(plain, profile))
        )
    on_cpus = max((memory_of(spec, profile) for profile in profiles if profile.device == "cpu"), default=0)
    raise fit.refusal(request, largest.device, memory_of(spec, largest), fitting, on_cpus)


def candidates(spec: Spec, settings: Settings) -> tuple[Profile, ...]:
    """The named profile alone; without a name the administrator's default, if there is one, and then the others from the smallest on.

    Rejected where none of them serves the quantization.
    """
    names = ", ".join(settings.profiles)
    if spec.profile is None:
        default = settings.default_profile
        if not any(spec.device in ("auto", profile.device) for profile in settings.profiles.values()):
            raise Rejected("ProfileNotFound", f"No profile has the device {spec.device}; the administrator's profiles are {names}.")
        found = sorted(_serving(spec, settings), key=lambda profile: (profile.name != default, profile.gpus, profile.memory))
    else:
        named = _named_profile(spec, settings, names)
        found = [named] if fit.serves(named.device, spec.quantization) else []
    if not found:
        raise Rejected("NotSupportedYet", _on_a_gpu(spec, settings))
    return tuple(found)


def _on_a_gpu(spec: Spec, settings: Settings) -> str:
    what = f"This version serves quantization {spec.quantization} on a CPU and not on a GPU yet"
    cpus = ", ".join(profile.name for profile in settings.profiles.values() if profile.device == "cpu")
    if not cpus:
        return f"{what}, and no profile has the device cpu; set quantization to none, or ask the administrator for such a profile."
    also = " and set device to cpu" if spec.device == "cuda" else ""
    return f"{what}; choose a profile with the device cpu ({cpus}){also}, or set quantization to none."


def _serving(spec: Spec, settings: Settings) -> list[Profile]:
    """Of the device that is asked for, and serving the quantization."""
    found = (profile for profile in settings.profiles.values() if spec.device in ("auto", profile.device))
    return [profile for profile in found if fit.serves(profile.device, spec.quantization)]


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
    """Bytes the model may take: the GPU's, or the pod's limit where the person set another one."""
    limit = spec.resources.get("limits", {}).get("memory")
    if profile.device == "cuda" or limit is None:
        return profile.memory
    try:
        return size(limit)
    except ValueError as error:
        raise Rejected("DoesNotFit", f"resources.limits.memory: {error}.") from error


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
