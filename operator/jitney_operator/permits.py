"""What the administrator lets others choose: images, variables, folders of the node. Pure; refuses with Rejected."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from jitney_operator.api import Spec
from jitney_operator.errors import Rejected
from jitney_operator.settings import Allow


def check(spec: Spec, allow: Allow) -> None:
    """Rejected with NotAllowed for the first thing that is not."""
    _image(spec, allow)
    _env(spec, allow)
    _host_path(spec, allow)


def _image(spec: Spec, allow: Allow) -> None:
    if spec.image and not _matches(spec.image, allow.images):
        raise Rejected("NotAllowed", f"The administrator does not allow the image {spec.image}; allowed are {_named(allow.images)}.")


def _env(spec: Spec, allow: Allow) -> None:
    for entry in spec.env:
        if not _matches(entry["name"], allow.env):
            raise Rejected("NotAllowed", f"The administrator does not allow the variable {entry['name']}; allowed are {_named(allow.env)}.")


def _host_path(spec: Spec, allow: Allow) -> None:
    if not spec.cache or spec.cache["type"] != "HostPath":
        return
    path = PurePosixPath(spec.cache.get("path", "/"))
    if ".." in path.parts or not any(path.is_relative_to(folder) for folder in allow.host_paths):
        raise Rejected("NotAllowed", f"The administrator does not allow the node's folder {path}; allowed are {_named(allow.host_paths)}.")


def _matches(value: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def _named(patterns: tuple[str, ...]) -> str:
    return ", ".join(patterns) or "none"
