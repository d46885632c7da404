"""What the front door needs of whatever keeps the custom models."""

from __future__ import annotations

from typing import Protocol

from jitney_gateway.family import Family


class Registry(Protocol):
    """Every method may raise GatewayError."""

    async def families(self) -> list[Family]:
        """All that are registered."""
        ...

    async def find(self, name: str) -> Family | None: ...

    async def add(self, family: Family, persist: bool) -> None:
        """It is kept when this returns; without `persist` it need not outlive the front door. GatewayError (400) where the name is taken
        or its weights cannot be reached from here."""
        ...

    async def remove(self, name: str) -> None:
        """Models that were launched from it stay. GatewayError (400) where there is none."""
        ...
