"""A Backend, and a Registry, that lead everything on to another. Whoever stands in between says only what it does otherwise."""

from __future__ import annotations

from collections.abc import AsyncIterator

from jitney_gateway.backend import Backend
from jitney_gateway.destination import Destination
from jitney_gateway.family import Family
from jitney_gateway.fit import Fit
from jitney_gateway.launch import Launch
from jitney_gateway.machine import Machine
from jitney_gateway.model import Model
from jitney_gateway.registry import Registry


class Passing:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def registry(self) -> Registry:
        return self._backend.registry

    async def fit(self, launch: Launch) -> Fit:
        return await self._backend.fit(launch)

    async def launch(self, launch: Launch) -> str:
        return await self._backend.launch(launch)

    async def ready(self, uid: str) -> None:
        await self._backend.ready(uid)

    async def models(self) -> list[Model]:
        return await self._backend.models()

    async def find(self, uid: str) -> Model | None:
        return await self._backend.find(uid)

    async def terminate(self, uid: str) -> None:
        await self._backend.terminate(uid)

    async def add_replicas(self, uid: str, count: int) -> list[int]:
        return await self._backend.add_replicas(uid, count)

    async def remove_replica(self, uid: str, replica: str) -> int:
        return await self._backend.remove_replica(uid, replica)

    def machines(self) -> tuple[Machine, ...]:
        return self._backend.machines()

    def destination(self, uid: str) -> Destination | None:
        return self._backend.destination(uid)

    def uids(self) -> list[str]:
        return self._backend.uids()

    async def wake(self, uid: str) -> None:
        await self._backend.wake(uid)

    async def moved(self) -> None:
        await self._backend.moved()

    def unready(self) -> str:
        return self._backend.unready()

    async def log(self, uid: str, replica: str | None, lines: int, follow: bool) -> AsyncIterator[bytes]:
        return await self._backend.log(uid, replica, lines, follow)


class PassingRegistry:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def families(self) -> list[Family]:
        return await self._registry.families()

    async def find(self, name: str) -> Family | None:
        return await self._registry.find(name)

    async def add(self, family: Family, persist: bool) -> None:
        await self._registry.add(family, persist)

    async def remove(self, name: str) -> None:
        await self._registry.remove(name)
