"""What the front door needs of whatever runs the models."""

from __future__ import annotations

from typing import Protocol

from jitney_gateway.launch import Launch
from jitney_gateway.model import Model


class Backend(Protocol):
    """Every method may raise GatewayError."""

    async def launch(self, launch: Launch) -> str:
        """Begin to start a model; its uid."""
        ...

    async def ready(self, uid: str) -> None:
        """Return once the model is ready; GatewayError with the reason where it cannot be."""
        ...

    async def models(self) -> list[Model]:
        """All that are launched, in the order of their uids."""
        ...

    async def find(self, uid: str) -> Model | None: ...

    async def terminate(self, uid: str) -> None:
        """Return once no process or pod of it is left to be asked."""
        ...
