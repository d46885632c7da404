"""Short names of chat models, and the shapes the fit check counts with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Self

import yaml

from jitney_operator.errors import Rejected, SettingsError

# As the resource's own, and its status.resolved, may be.
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
# The runtime's own bound: models of more weights lose less by 4 bits.
_SMALL = 500_000_000
_COUNTED = ("hidden", "heads", "intermediate", "vocabulary", "experts", "expertIntermediate")
NEEDED = ("repository", "parameters", "layers", "kvHeads", "headDim", "context")


@dataclass(frozen=True)
class Model:
    """One size of one model. `parameters` is a count, not billions; `tied` of them, embedding and projection of the vocabulary in one, 0
    where these are two. `scores`: weights of that projection, 0 where the entry does not say."""

    repository: str
    size: str
    parameters: int
    layers: int
    kv_heads: int
    head_dim: int
    context: int
    tied: int = 0
    # A commit, branch or tag of the repository; None is its default branch.
    revision: str | None = None
    scores: int = 0
    # Of `parameters`, what is never smaller than bfloat16, and what on a CPU is always float32.
    table: int = 0
    wide: int = 0
    # And what a CPU keeps as int8 in int4.
    delicate: int = 0

    @classmethod
    def parse(cls, size: str, values: Mapping[str, Any]) -> Self:
        """`hidden` and `vocabulary` are needed where `tied` is true, and where a quantized model is to be counted closely."""
        embedding, scaled = values.get("vocabulary", 0) * values.get("hidden", 0), bool(values.get("scaledEmbedding"))
        return cls(
            repository=values["repository"],
            size=size,
            parameters=values["parameters"],
            layers=values["layers"],
            kv_heads=values["kvHeads"],
            head_dim=values["headDim"],
            context=values["context"],
            tied=embedding if values.get("tied") else 0,
            revision=values.get("revision"),
            scores=embedding,
            table=0 if scaled else embedding,
            delicate=_delicate(values),
            wide=_experts(values) + (embedding if scaled else 0),
        )


def _delicate(values: Mapping[str, Any]) -> int:
    """Weights of the value, output and down projections of a small model; all where the entry does not say how large they are."""
    if values["parameters"] > _SMALL:
        return 0
    if not {"hidden", "heads", "intermediate"} <= values.keys():
        return int(values["parameters"])
    return int(values["layers"] * values["hidden"] * (values["intermediate"] + (values["heads"] + values["kvHeads"]) * values["headDim"]))


def _experts(values: Mapping[str, Any]) -> int:
    """Weights of all experts, three matrices each, and of what chooses between them: no linear layers to the runtime. All of a model whose
    entry does not say how large they are."""
    if not values.get("experts"):
        return 0
    if "hidden" not in values or "expertIntermediate" not in values:
        return int(values["parameters"])
    return int(values["layers"] * values["experts"] * values["hidden"] * (3 * values["expertIntermediate"] + 1))


class Catalogue:
    """Looks models up; every miss says what there is."""

    def __init__(self, models: Mapping[str, tuple[Model, ...]]) -> None:
        self._models = models

    @classmethod
    def read(cls, more: Mapping[str, Any] | None = None) -> Self:
        """The catalogue that ships with the operator, and the administrator's entries in the same form; theirs win, size by size."""
        text = resources.files("jitney_operator").joinpath("catalogue.yaml").read_text()
        found: dict[str, dict[str, Model]] = {}
        for document in (yaml.safe_load(text), more or {}):
            for name, sizes in document.items():
                for size, values in _entries(name, sizes):
                    found.setdefault(name, {})[size] = _model(name, size, values)
        return cls({name: tuple(sizes.values()) for name, sizes in found.items()})

    def find(self, name: str, size: str | None) -> Model:
        """Rejected with ModelNotFound or SizeNotFound when there is none."""
        models = self._models.get(name)
        if models is None:
            known = ", ".join(sorted(self._models))
            raise Rejected("ModelNotFound", f"The catalogue has no model {name}. Known are {known}; any other can be named as org/repo.")
        sizes = ", ".join(model.size for model in models)
        if size is None and len(models) > 1:
            raise Rejected("SizeNotFound", f"{name} comes in several sizes; set spec.size to one of {sizes}.")
        for model in models:
            if size is None or float(size) == float(model.size):
                return model
        raise Rejected("SizeNotFound", f"{name} has no size {size}; set spec.size to one of {sizes}.")

    def by_repository(self, repository: str) -> Model | None:
        """The shape of a repository that was named directly; None when it is not catalogued. Without the entry's revision: who names a
        repository means it as it is now, or says a revision."""
        found = next((model for models in self._models.values() for model in models if model.repository == repository), None)
        return replace(found, revision=None) if found else None


def _entries(name: str, sizes: Any) -> list[tuple[str, Any]]:
    if not isinstance(sizes, Mapping):
        raise SettingsError(f"catalogue: {name} must map sizes in billions to models, not be {sizes!r}")
    return [(str(size), values) for size, values in sizes.items()]


def _model(name: str, size: str, values: Any) -> Model:
    place = f"catalogue: {name}, size {size}"
    try:
        float(size)
    except ValueError as error:
        raise SettingsError(f"{place}: a size is in billions of parameters, such as 4 or 0.5") from error
    if not isinstance(values, Mapping):
        raise SettingsError(f"{place} must be a mapping, not {values!r}")
    more = {"tied": ("hidden", "vocabulary"), "scaledEmbedding": ("hidden", "vocabulary")}
    needed = (*NEEDED, *(key for with_it, keys in more.items() if values.get(with_it) for key in keys))
    missing = [key for key in needed if key not in values]
    if missing:
        raise SettingsError(f"{place}: {missing[0]} is missing")
    # No experts may be said as 0.
    least = {"experts": 0}
    wrong = [key for key in (*NEEDED[1:], *_COUNTED) if key in values and (type(values[key]) is not int or values[key] < least.get(key, 1))]
    if wrong:
        raise SettingsError(f"{place}: {wrong[0]} must be a whole number above 0, not {values[wrong[0]]!r}")
    revision = values.get("revision", "")
    if not isinstance(revision, str) or (revision and not _REVISION.fullmatch(revision)):
        raise SettingsError(f"{place}: revision must be a commit, branch or tag in quotes, not {revision!r}")
    return Model.parse(size, values)
