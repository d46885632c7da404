"""Custom models of this machine: those that are to persist on disk, the others until the server stops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jitney_gateway.errors import GatewayError, bad_field
from jitney_gateway.family import Family, taken, unknown
from jitney_gateway.local import folders
from jitney_gateway.local.document import Document

MOST = 1000


class LocalRegistry:
    """One file of `folder`. Lives on the event loop; what persists is on disk before it is answered."""

    def __init__(self, folder: Path) -> None:
        """ValueError with the file's name where it is not ours."""
        self._document = Document(folder / "registrations.json", "families")
        self._kept: dict[str, Family] = self._document.read(_families, {})
        self._passing: dict[str, Family] = {}

    async def families(self) -> list[Family]:
        return [*self._kept.values(), *self._passing.values()]

    async def find(self, name: str) -> Family | None:
        return self._kept.get(name) or self._passing.get(name)

    async def add(self, family: Family, persist: bool) -> None:
        if await self.find(family.name):
            raise taken(family.name)
        if len(self._kept) + len(self._passing) >= MOST:
            raise GatewayError(400, f"{MOST} custom models are registered, and more are not kept: unregister one", code="too_many")
        for spec in family.specs:
            _check(spec.field, spec.reference)
        if persist:
            self._keep({**self._kept, family.name: family})
        else:
            self._passing[family.name] = family

    async def remove(self, name: str) -> None:
        if self._passing.pop(name, None):
            return
        if name not in self._kept:
            raise unknown(name)
        self._keep({other: family for other, family in self._kept.items() if other != name})

    def _keep(self, families: dict[str, Family]) -> None:
        """Written before it counts."""
        self._document.write([family.document for family in families.values()])
        self._kept = families


def _families(documents: Any) -> dict[str, Family]:
    try:
        return {family.name: family for family in map(Family.parse, documents)}
    except GatewayError as error:
        raise ValueError(error.detail) from error


def _check(field: str, reference: str) -> None:
    """As far as it can be known before a launch."""
    if reference.startswith(("pvc://", "oci://")):
        raise bad_field(field, f"there is no cluster here: write file:///folder or hf://org/repo, not {reference}")
    if reference.startswith("file://"):
        folders.found(field, reference)
