"""What the administrator set: the environment and the configuration file, read once at the start."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from jitney_operator import quantities
from jitney_operator.api import Json
from jitney_operator.catalogue import Catalogue
from jitney_operator.errors import SettingsError

_PROFILE_FIELDS = {
    "device", "memory", "gpus", "gpuResource", "requests", "limits", "tolerations",
    "image", "nodeSelector", "runtimeClassName", "schedulerName",
}  # fmt: skip
_FIELDS = {"runtimeImage", "imagePullPolicy", "defaultProfile", "profiles", "allow", "catalogue", "wakeNamespaces", "hubEndpoint"}
_ALLOW_FIELDS = {"images", "env", "hostPaths", "trustRemoteCode"}


@dataclass(frozen=True)
class Profile:
    """What one pod gets. `memory` is bytes: of one GPU, or of the pod on a CPU."""

    name: str
    device: str
    memory: int
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    requests: Json = field(default_factory=dict)
    limits: Json = field(default_factory=dict)
    tolerations: tuple[Json, ...] = ()
    image: str | None = None
    node_selector: dict[str, str] = field(default_factory=dict)
    runtime_class: str | None = None
    scheduler: str | None = None

    @classmethod
    def parse(cls, name: str, values: Mapping[str, Any]) -> Self:
        if not isinstance(values, Mapping):
            raise SettingsError(f"profile {name}: must be a mapping, not {values!r}")
        if not name or len(name) > 63:
            raise SettingsError(f"profile {name}: its name must have 1 to 63 characters")
        unknown = set(values) - _PROFILE_FIELDS
        if unknown:
            raise SettingsError(f"profile {name}: unknown field {sorted(unknown)[0]}; known are {', '.join(sorted(_PROFILE_FIELDS))}")
        device = values.get("device", "cpu")
        if device not in ("cpu", "cuda"):
            raise SettingsError(f"profile {name}: device must be cpu or cuda, not {device}")
        return cls(
            name=name,
            device=device,
            memory=_bytes(name, values.get("memory", "")),
            gpus=_whole(f"profile {name}: gpus", values.get("gpus", 1 if device == "cuda" else 0)),
            gpu_resource=values.get("gpuResource", "nvidia.com/gpu"),
            requests=_mapping(f"profile {name}: requests", values.get("requests")),
            limits=_mapping(f"profile {name}: limits", values.get("limits")),
            tolerations=_list(f"profile {name}: tolerations", values.get("tolerations")),
            image=values.get("image"),
            node_selector=_mapping(f"profile {name}: nodeSelector", values.get("nodeSelector")),
            runtime_class=values.get("runtimeClassName"),
            scheduler=values.get("schedulerName"),
        )


@dataclass(frozen=True)
class Allow:
    """What the people who write resources may choose for themselves: shell patterns (fnmatch); `host_paths` are folders.

    `trust_remote_code`: whether code from a model's repository may run.
    """

    images: tuple[str, ...] = ("*",)
    env: tuple[str, ...] = ("*",)
    host_paths: tuple[str, ...] = ()
    trust_remote_code: bool = False

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        unknown = set(values) - _ALLOW_FIELDS
        if unknown:
            raise SettingsError(f"allow: unknown field {sorted(unknown)[0]}; known are {', '.join(sorted(_ALLOW_FIELDS))}")
        trust = values.get("trustRemoteCode", False)
        if not isinstance(trust, bool):
            raise SettingsError(f"allow: trustRemoteCode must be true or false, not {trust!r}")
        lists = {name: patterns for name, patterns in values.items() if name != "trustRemoteCode"}
        for name, patterns in lists.items():
            if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
                raise SettingsError(f"allow: {name} must be a list of strings")
        relative = [path for path in values.get("hostPaths", ()) if not path.startswith("/")]
        if relative:
            raise SettingsError(f"allow: hostPaths must be absolute, not {relative[0]}")
        return cls(tuple(values.get("images", ("*",))), tuple(values.get("env", ("*",))), tuple(values.get("hostPaths", ())), trust)


def _mapping(place: str, value: Any) -> Json:
    if not isinstance(value or {}, dict):
        raise SettingsError(f"{place} must be a mapping, not {value!r}")
    return dict(value or {})


def _list(place: str, value: Any) -> tuple[Json, ...]:
    if not isinstance(value or [], list):
        raise SettingsError(f"{place} must be a list, not {value!r}")
    return tuple(value or ())


def _names(place: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value or [], list) or not all(isinstance(name, str) for name in value or ()):
        raise SettingsError(f"{place} must be a list of strings, not {value!r}")
    return tuple(value or ())


def _url(place: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"(https?://[^\s$]+)?", value):
        raise SettingsError(f"{place} must be a URL such as https://hub.example, not {value!r}")
    return value


def _whole(place: str, value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{place} must be a whole number, not {value!r}") from error


def _bytes(name: str, memory: str | int) -> int:
    try:
        return quantities.size(memory)
    except ValueError as error:
        raise SettingsError(f"profile {name}: memory: {error}") from error


@dataclass(frozen=True)
class Settings:
    """Everything the process is told from outside."""

    namespace: str = "default"
    identity: str = "jitney-operator"
    watch_namespaces: tuple[str, ...] = ()
    log_level: str = "INFO"
    runtime_image: str = "jitney-runtime:0.1.0"
    image_pull_policy: str = "IfNotPresent"
    # None: the smallest that holds the model.
    default_profile: str | None = None
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    allow: Allow = Allow()
    catalogue: Catalogue = field(default_factory=Catalogue.read)
    # Where a front door wakes models that have no replica; * is everywhere.
    wake_namespaces: tuple[str, ...] = ()
    # Where pods download from; empty: the Hugging Face hub.
    hub_endpoint: str = ""
    http_port: int = 8080

    def wakes(self, namespace: str) -> bool:
        """Whether a model may sleep there."""
        return not {namespace, "*"}.isdisjoint(self.wake_namespaces)

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Self:
        """From the environment and the file it names; SettingsError says what is wrong."""
        values = _load(environ.get("JITNEY_CONFIG"))
        named = _mapping("profiles", values["profiles"])
        profiles = {name: Profile.parse(name, {} if profile is None else profile) for name, profile in named.items()}
        default = values.get("defaultProfile") or None
        if not profiles:
            raise SettingsError("profiles must name at least one, such as cpu")
        if default and default not in profiles:
            raise SettingsError(f"defaultProfile {default} is not one of the profiles: {', '.join(profiles)}")
        return cls(
            namespace=environ.get("JITNEY_NAMESPACE") or "default",
            identity=environ.get("JITNEY_POD_NAME") or "jitney-operator",
            watch_namespaces=tuple(part.strip() for part in environ.get("JITNEY_WATCH_NAMESPACES", "").split(",") if part.strip()),
            log_level=_level(environ.get("JITNEY_LOG_LEVEL") or "INFO"),
            runtime_image=values.get("runtimeImage", "jitney-runtime:0.1.0"),
            image_pull_policy=values.get("imagePullPolicy", "IfNotPresent"),
            default_profile=default,
            profiles=profiles,
            allow=Allow.parse(values.get("allow") or {}),
            catalogue=Catalogue.read(_mapping("catalogue", values.get("catalogue"))),
            wake_namespaces=_names("wakeNamespaces", values.get("wakeNamespaces")),
            hub_endpoint=_url("hubEndpoint", values.get("hubEndpoint") or ""),
            http_port=_whole("JITNEY_HTTP_PORT", environ.get("JITNEY_HTTP_PORT") or 8080),
        )


def _level(name: str) -> str:
    if name.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise SettingsError(f"JITNEY_LOG_LEVEL must be debug, info, warning or error, not {name}")
    return name.upper()


def _load(path: str | None) -> Json:
    # Without a file the operator still serves small models on a CPU: enough for a first try from a kubeconfig.
    values: Json = {"profiles": {"cpu": {"memory": "4Gi", "requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "4Gi"}}}}
    if not path:
        return values
    try:
        read = yaml.safe_load(Path(path).read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"JITNEY_CONFIG {path} cannot be read: {error}") from error
    if not isinstance(read, dict):
        raise SettingsError(f"JITNEY_CONFIG {path} must be a mapping")
    unknown = set(read) - _FIELDS
    if unknown:
        raise SettingsError(f"JITNEY_CONFIG {path}: unknown field {sorted(unknown)[0]}; known are {', '.join(sorted(_FIELDS))}")
    return values | read
