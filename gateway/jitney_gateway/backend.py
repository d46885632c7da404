"""What the front door needs of whatever runs the models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from jitney_gateway.destination import Destination
from jitney_gateway.fit import Fit
from jitney_gateway.launch import Launch
from jitney_gateway.machine import Machine
from jitney_gateway.model import Model
from jitney_gateway.registry import Registry


class Backend(Protocol):
    """Every method may raise GatewayError."""

    @property
    def registry(self) -> Registry:
        """Custom models, which are launched by the name that they were registered with."""
        ...

    async def fit(self, launch: Launch) -> Fit:
        """What can be said before it is launched; GatewayError (400) where it would be refused as it stands. Starts nothing."""
        ...

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

    async def add_replicas(self, uid: str, count: int) -> list[int]:
        """Begin to start so many more; their numbers."""
        ...

    async def remove_replica(self, uid: str, replica: str) -> int:
        """How many are left."""
        ...

    def machines(self) -> tuple[Machine, ...]:
        """Those that it starts models on by its own hand."""
        ...

    def destination(self, uid: str) -> Destination | None:
        """Where requests for it go. Asks nobody, and so may be a moment late; None where no such model is known."""
        ...

    def uids(self) -> list[str]:
        """Of all models that `destination` knows."""
        ...

    async def wake(self, uid: str) -> None:
        """Ask for a replica of a model that is asleep; returns before it is there."""
        ...

    async def moved(self) -> None:
        """Return when a destination may have changed."""
        ...

    def unready(self) -> str:
        """Why this front door should get no requests now; empty where it should."""
        ...

    async def log(self, uid: str, replica: str | None, lines: int, follow: bool) -> AsyncIterator[bytes]:
        """The last `lines` of one replica, by default the first; with `follow` also what it writes from now on, until it is gone."""
        ...
