"""From a spec to what will really run: repository, profile, image, window. Pure; refuses with Rejected."""

from __future__ import annotations

from dataclasses import dataclass

from jitney_operator import fit
from jitney_operator.api import Json, ModelDeployment, Spec
from jitney_operator.catalogue import Catalogue, Model
from jitney_operator.errors import Rejected
from jitney_operator.fit import Estimate
from jitney_operator.quantities import gib, size
from jitney_operator.settings import Profile, Settings

MOUNT = "/mnt/model"


@dataclass(frozen=True)
class Resolved:
    """`model` is None where the shape is unknown: then nothing was estimated."""

    reference: str
    claim: str | None
    image: str
    profile: Profile
    model: Model | None
    estimate: Estimate | None
    max_model_len: int | None

    @property
    def device(self) -> str:
        return self.profile.device

    def echo(self, spec: Spec) -> Json:
        """status.resolved"""
        found: Json = {"servedModelName": spec.served_model_name, "repository": self.reference, "image": self.image}
        found |= {"profile": self.profile.name, "device": self.device, "gpus": self.profile.gpus}
        if spec.revision:
            found["revision"] = spec.revision
        if self.model:
            found["size"] = self.model.size
        if self.max_model_len:
            found["maxModelLen"] = self.max_model_len
        if self.estimate:
            parts = {"weights": self.estimate.weights, "kvCache": self.estimate.kv_cache, "overhead": self.estimate.overhead}
            found |= {"estimatedMemory": gib(self.estimate.total), "breakdown": {name: gib(value) for name, value in parts.items()}}
        return found


def resolve(mdep: ModelDeployment, settings: Settings, catalogue: Catalogue) -> Resolved:
    """What this generation means; Rejected when it cannot run."""
    spec = mdep.spec
    refuse_unsupported(spec)
    profile = choose_profile(spec, settings)
    model, reference, claim = find_model(spec, catalogue)
    estimate = fit.check(model, profile.device, memory_of(spec, profile), spec.max_num_seqs, spec.max_model_len) if model else None
    image = spec.image or _kept_image(mdep) or profile.image or settings.runtime_image
    window = estimate.max_model_len if estimate else spec.max_model_len
    return Resolved(reference, claim, image, profile, model, estimate, window)


def refuse_unsupported(spec: Spec) -> None:
    """What the schema promises and this version does not do yet is refused aloud, not ignored."""
    missing = {
        "spec.cache": spec.cache is not None,
        "spec.autoscaling": spec.autoscaling is not None,
        "spec.rollout.maxSurge": "maxSurge" in spec.rollout,
        f"quantization {spec.quantization}": spec.quantization != "none",
        "a model from oci://": spec.model.startswith("oci://"),
    }
    for what, asked in missing.items():
        if asked:
            raise Rejected("NotSupportedYet", f"This version does not support {what} yet; remove it from the spec.")


def choose_profile(spec: Spec, settings: Settings) -> Profile:
    """The named one, else the first that has the asked device, else the default."""
    names = ", ".join(settings.profiles)
    if spec.profile is None and spec.device != "auto":
        default = settings.profiles[settings.default_profile]
        for profile in (default, *settings.profiles.values()):
            if profile.device == spec.device:
                return profile
        raise Rejected("ProfileNotFound", f"No profile has the device {spec.device}; the administrator's profiles are {names}.")
    found = settings.profiles.get(spec.profile or settings.default_profile)
    if found is None:
        raise Rejected("ProfileNotFound", f"There is no profile {spec.profile}; set spec.resourceProfile to one of {names}.")
    if spec.device not in ("auto", found.device):
        raise Rejected(
            "ProfileNotFound", f"The profile {found.name} has the device {found.device}, not {spec.device}; change one of the two."
        )
    return found


def find_model(spec: Spec, catalogue: Catalogue) -> tuple[Model | None, str, str | None]:
    """Its shape when known, the reference for the runtime, and the claim to mount."""
    if spec.model.startswith("pvc://"):
        claim, _, path = spec.model.removeprefix("pvc://").partition("/")
        return None, f"{MOUNT}/{path}".rstrip("/"), claim
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


def _kept_image(mdep: ModelDeployment) -> str | None:
    """An upgraded operator restarts nothing: the image stays as resolved until the spec changes."""
    if mdep.status.get("observedGeneration") != mdep.generation:
        return None
    image: str | None = mdep.status.get("resolved", {}).get("image")
    return image
