"""Short names of chat models, and the shapes the fit check counts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Self

import yaml

from jitney_operator.errors import Rejected


@dataclass(frozen=True)
class Model:
    """One size of one model. `parameters` is a count, not billions; `tied` of them, embedding and projection of the vocabulary in one, 0
    where these are two."""

    repository: str
    size: str
    parameters: int
    layers: int
    kv_heads: int
    head_dim: int
    context: int
    tied: int = 0

    @classmethod
    def parse(cls, size: str, values: Mapping[str, Any]) -> Self:
        return cls(
            repository=values["repository"],
            size=size,
            parameters=values["parameters"],
            layers=values["layers"],
            kv_heads=values["kvHeads"],
            head_dim=values["headDim"],
            context=values["context"],
            tied=values["vocabulary"] * values["hidden"] if values["tied"] else 0,
        )


class Catalogue:
    """Looks models up; every miss says what there is."""

    def __init__(self, models: Mapping[str, tuple[Model, ...]]) -> None:
        self._models = models

    @classmethod
    def read(cls) -> Self:
        """The catalogue that ships with the operator."""
        text = resources.files("jitney_operator").joinpath("catalogue.yaml").read_text()
        document = yaml.safe_load(text)
        return cls({name: tuple(Model.parse(size, values) for size, values in sizes.items()) for name, sizes in document.items()})

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
        """The shape of a repository that was named directly; None when it is not catalogued."""
        return next((model for models in self._models.values() for model in models if model.repository == repository), None)
