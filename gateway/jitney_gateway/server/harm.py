"""By which of its fields a launch, or a custom model, runs code that its caller chose. Pure.

Variables can name a library to load, trust_remote_code runs what lies in a repository, and a folder or an image may be one that the caller
has filled. What is left is a repository of the hub, whose weights are read and not run.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from jitney_gateway.family import Family
from jitney_gateway.launch import Launch

HUB = "hf://"
# A name of the catalogue or of a custom model, or org/repo; no part of it is a way through folders.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")


def of_launch(launch: Launch, registered: Collection[str]) -> str:
    """The field; empty where there is none. `registered` are the references of the custom model of this name, which somebody else has
    answered for."""
    if launch.envs:
        return "envs"
    if launch.trust_remote_code:
        return "trust_remote_code"
    if launch.model_path is not None and launch.model_path not in registered and not _is_hub(launch.model_path):
        return "model_path"
    return "" if _PLAIN.fullmatch(launch.name) else "model_name"


def of_family(family: Family) -> str:
    return next((spec.field for spec in family.specs if not _is_hub(spec.reference)), "")


def _is_hub(reference: str) -> bool:
    return reference.startswith(HUB) and "/" in reference.removeprefix(HUB) and bool(_PLAIN.fullmatch(reference.removeprefix(HUB)))
