"""What the status of a resource would say of its spec, before there is a resource. Pure.

Only the spec and the administrator's configuration are looked at, nothing of the cluster: whether the Secrets and claims that it names are
there, and whether a node has room for the pod, its status tells once it is made.
"""

from __future__ import annotations

import logging

from jitney_operator import plan
from jitney_operator.api import API_VERSION, KIND, Json, ModelDeployment
from jitney_operator.errors import OperatorError
from jitney_operator.observed import Observed
from jitney_operator.quantities import gib
from jitney_operator.resolve import memory_of
from jitney_operator.settings import Settings

logger = logging.getLogger(__name__)

# Whether it fits, by the reason of Accepted; with any other it was not checked.
FITS = {"Fits": True, "DoesNotFit": False}
# What comes where the schema wants something else: nobody has checked this manifest against it.
OF_A_WRONG_SHAPE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class NotAManifest(OperatorError):
    """Not a ModelDeployment as the schema has it."""


def of(body: object, settings: Settings) -> Json:
    """Of a manifest out of JSON, as for a resource that is new: a status that it may have is not read. The schema's bounds are the API
    server's to hold; a manifest beyond them gets some answer or NotAManifest.

    `accepted`, `reason` and `message` are those of the condition Accepted; `fits` is None where that was not checked. Where it is accepted,
    `resolved` is status.resolved, and where it fits, `memory` is what there is for its estimatedMemory, such as 4.00Gi. NotAManifest says
    what is wrong.
    """
    spec, metadata = _parts(body)
    try:
        mdep = ModelDeployment.parse({"metadata": metadata, "spec": spec})
        made = plan.make(mdep, Observed(), settings, settings.catalogue)
    except OF_A_WRONG_SHAPE as error:
        # Or of a defect of ours, which only this line tells.
        logger.info("a manifest that cannot be read", exc_info=True)
        raise NotAManifest(f"spec is not that of a {KIND}: {error or type(error).__name__}") from error
    accepted = next(entry for entry in made.status("")["conditions"] if entry["type"] == "Accepted")
    found = {"accepted": accepted["status"] == "True", "fits": FITS.get(accepted["reason"])}
    found |= {"reason": accepted["reason"], "message": accepted["message"]}
    if made.resolved:
        found["resolved"] = made.resolved
    if found["fits"] and made.resolved:
        found["memory"] = gib(memory_of(mdep.spec, settings.profiles[made.resolved["profile"]]))
    return found


def _parts(body: object) -> tuple[Json, Json]:
    """Its spec, and as much of its metadata as a resource that is new would have."""
    if not isinstance(body, dict) or (body.get("apiVersion"), body.get("kind")) != (API_VERSION, KIND):
        raise NotAManifest(f"a manifest with apiVersion {API_VERSION} and kind {KIND} is expected")
    metadata, spec = body.get("metadata"), body.get("spec")
    if not isinstance(metadata, dict) or not all(isinstance(metadata.get(name), str) for name in ("name", "namespace")):
        raise NotAManifest("metadata must have a name and a namespace")
    if not isinstance(spec, dict) or not isinstance(spec.get("model"), str):
        raise NotAManifest("spec.model must name a model")
    return spec, {"name": metadata["name"], "namespace": metadata["namespace"], "uid": "", "generation": 1}
