"""A front door's models that are what they are."""

from __future__ import annotations

from jitney_gateway.destination import Destination, of_model
from jitney_gateway.launch import Launch
from jitney_gateway.model import Model, Replica


class Fixed:
    """A Backend whose models are what they are."""

    def __init__(self, *models: Model) -> None:
        self._models = list(models)

    async def launch(self, launch: Launch) -> str:
        raise NotImplementedError

    async def ready(self, uid: str) -> None:
        raise NotImplementedError

    async def terminate(self, uid: str) -> None:
        raise NotImplementedError

    async def models(self) -> list[Model]:
        return self._models

    async def find(self, uid: str) -> Model | None:
        return next((model for model in self._models if model.uid == uid), None)

    def destination(self, uid: str) -> Destination | None:
        return next((of_model(model) for model in self._models if model.uid == uid), None)

    def uids(self) -> list[str]:
        return [model.uid for model in self._models]

    async def wake(self, uid: str) -> None:
        raise NotImplementedError

    async def moved(self) -> None:
        raise NotImplementedError

    def unready(self) -> str:
        return ""


def model(uid: str, status: str, address: str = "http://127.0.0.1:9", message: str = "") -> Model:
    return Model(uid, Launch(uid), status, (Replica("0", address, status),), message=message)
