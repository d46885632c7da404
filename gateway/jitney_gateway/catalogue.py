"""Chat models by short name and size, read from the one file that the operator reads too; a contract test compares both readings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Self

import yaml

from jitney_gateway.errors import GatewayError, bad_field
from jitney_gateway.launch import Launch

# The runtime's own bound: models of more weights lose less by 4 bits.
_SMALL = 500_000_000


@dataclass(frozen=True)
class Entry:
    """One size of a model. `parameters` as stored, `context` in tokens, `kv_elements` per token: keys and values of all layers.

    Of the weights `scores` are the vocabulary's, int8 at least where the model is quantized, `table` is never smaller than bfloat16 and
    `wide` on a CPU always float32, `delicate` int8 in int4; 0 where that is not known.
    """

    name: str
    size: str
    repository: str
    revision: str | None
    parameters: int
    context: int
    kv_elements: int
    scores: int = 0
    table: int = 0
    wide: int = 0
    tied: bool = False
    delicate: int = 0

    @classmethod
    def parse(cls, name: str, size: str, values: Mapping[str, Any]) -> Self:
        kv = 2 * values["layers"] * values["kvHeads"] * values["headDim"]
        scores, scaled = values.get("vocabulary", 0) * values.get("hidden", 0), bool(values.get("scaledEmbedding"))
        wide = scores if scaled else 0
        wide += _experts(values)
        return cls(
            name=name,
            size=size,
            repository=values["repository"],
            revision=values.get("revision"),
            parameters=values["parameters"],
            context=values["context"],
            kv_elements=kv,
            scores=scores,
            table=0 if scaled else scores,
            wide=wide,
            tied=bool(values.get("tied")),
            delicate=_delicate(values),
        )


def _delicate(values: Mapping[str, Any]) -> int:
    """As the operator counts them."""
    if values["parameters"] > _SMALL:
        return 0
    if not {"hidden", "heads", "intermediate"} <= values.keys():
        return int(values["parameters"])
    return int(values["layers"] * values["hidden"] * (values["intermediate"] + (values["heads"] + values["kvHeads"]) * values["headDim"]))


def _experts(values: Mapping[str, Any]) -> int:
    """As the operator counts them."""
    if not values.get("experts"):
        return 0
    if "hidden" not in values or "expertIntermediate" not in values:
        return int(values["parameters"])
    return int(values["layers"] * values["experts"] * values["hidden"] * (3 * values["expertIntermediate"] + 1))


class Catalogue:
    """Looks models up; every miss says what there is."""

    def __init__(self, entries: tuple[Entry, ...]) -> None:
        self.entries = entries

    @classmethod
    def read(cls, own: Mapping[str, Any] | None = None) -> Self:
        """`own`: the administrator's families; they win, size by size. KeyError, TypeError or AttributeError for any other form."""
        # A file of the operator's room, read as data: the rooms' code stays apart.
        text = resources.files("jitney_operator").joinpath("catalogue.yaml").read_text()
        found: dict[tuple[str, str], Entry] = {}
        for families in (yaml.safe_load(text), own or {}):
            for name, sizes in families.items():
                found |= {(name, str(size)): Entry.parse(name, str(size), values) for size, values in sizes.items()}
        return cls(tuple(found.values()))

    def of(self, name: str) -> tuple[Entry, ...]:
        """All sizes of a model; empty where it is not known."""
        return tuple(entry for entry in self.entries if entry.name == name)

    def find(self, name: str, size: str | None) -> Entry:
        """GatewayError (400) where there is no such model, no such size, or several sizes to choose from."""
        entries = self.of(name)
        if not entries:
            known = ", ".join(sorted({entry.name for entry in self.entries}))
            raise GatewayError(
                400, f"Model not found, name: {name}. Known are {known}; give model_path for any other.", code="model_not_found"
            )
        sizes = ", ".join(entry.size for entry in entries)
        if size is None and len(entries) > 1:
            raise bad_field("model_size_in_billions", f"{name} comes in several sizes; give one of {sizes}")
        for entry in entries:
            if size is None or float(entry.size) == float(size):
                return entry
        raise bad_field("model_size_in_billions", f"{name} has no size {size}; there are {sizes}")

    def pinned(self, launch: Launch) -> Launch:
        """The launch with its entry's revision, where a short name says what to load and the person says no revision. It stays with the
        launch: another edition of the catalogue changes no model that runs. GatewayError (400) as find() has it."""
        if launch.revision or launch.model_path or "/" in launch.name:
            return launch
        return replace(launch, revision=self.find(launch.name, launch.size).revision)
