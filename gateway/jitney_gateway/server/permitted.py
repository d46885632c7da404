"""What is there, to whoever asks now: a key that is for some models sees, asks, launches and ends only those.

It stands before the backend and not before the routes: one that is added later need not think of it. Compared is the uid that a model is
listed by, because in a cluster it may be asked for by other names too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from jitney_gateway.backend import Backend
from jitney_gateway.destination import Destination
from jitney_gateway.errors import GatewayError, unknown_model
from jitney_gateway.family import Family
from jitney_gateway.fit import Fit
from jitney_gateway.launch import Launch
from jitney_gateway.machine import Machine
from jitney_gateway.model import Model
from jitney_gateway.registry import Registry
from jitney_gateway.server import harm
from jitney_gateway.server.visit import current


class Permitted:
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    @property
    def registry(self) -> Registry:
        return PermittedRegistry(self._backend.registry)

    async def fit(self, launch: Launch) -> Fit:
        return await self._backend.fit(await self._allowed(launch))

    async def launch(self, launch: Launch) -> str:
        return await self._backend.launch(await self._allowed(launch))

    async def models(self) -> list[Model]:
        return [model for model in await self._backend.models() if current.get().may_use(model.uid)]

    async def find(self, uid: str) -> Model | None:
        found = await self._backend.find(uid)
        _check(found.uid if found else uid)
        return found

    async def terminate(self, uid: str) -> None:
        await self._known(uid)
        await self._backend.terminate(uid)

    async def add_replicas(self, uid: str, count: int) -> list[int]:
        await self._known(uid)
        return await self._backend.add_replicas(uid, count)

    async def remove_replica(self, uid: str, replica: str) -> int:
        await self._known(uid)
        return await self._backend.remove_replica(uid, replica)

    def destination(self, uid: str) -> Destination | None:
        found = self._backend.destination(uid)
        _check(found.uid if found else uid)
        return found

    def uids(self) -> list[str]:
        return [uid for uid in self._backend.uids() if current.get().may_use(uid)]

    async def log(self, uid: str, replica: str | None, lines: int, follow: bool) -> AsyncIterator[bytes]:
        await self._known(uid)
        return await self._backend.log(uid, replica, lines, follow)

    # What names no model, or is asked of one that was allowed already.

    async def ready(self, uid: str) -> None:
        await self._backend.ready(uid)

    async def wake(self, uid: str) -> None:
        await self._backend.wake(uid)

    async def moved(self) -> None:
        await self._backend.moved()

    def machines(self) -> tuple[Machine, ...]:
        return self._backend.machines()

    def unready(self) -> str:
        return self._backend.unready()

    async def _allowed(self, launch: Launch) -> Launch:
        named = _named(launch)
        if not current.get().may_run_code:
            family = await self.registry.find(launch.name) if launch.model_path else None
            _check_harmless(harm.of_launch(launch, {spec.reference for spec in family.specs} if family else set()))
        return named

    async def _known(self, uid: str) -> None:
        """Looked for only where it may be forbidden: what there is otherwise to say about it is the backend's. Names that are not the
        key's are told to nobody."""
        if current.get().restricted and await self.find(uid) is None:
            raise unknown_model(uid, self.uids())


class PermittedRegistry:
    """Custom models go by the same names."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def families(self) -> list[Family]:
        return [family for family in await self._registry.families() if current.get().may_use(family.name)]

    async def find(self, name: str) -> Family | None:
        found = await self._registry.find(name)
        if found:
            _check(name)
        return found

    async def add(self, family: Family, persist: bool) -> None:
        _check(family.name)
        if not current.get().may_run_code:
            _check_harmless(harm.of_family(family))
        await self._registry.add(family, persist)

    async def remove(self, name: str) -> None:
        _check(name)
        await self._registry.remove(name)


def _named(launch: Launch) -> Launch:
    """Under the name that was asked for and no other: one that is chosen may be none of the key's."""
    if not current.get().restricted:
        return launch
    uid = launch.wanted_uid()
    _check(uid)
    return replace(launch, uid=uid)


def _check_harmless(field: str) -> None:
    """`field` is what the key would run programs of its own by; empty where there is nothing."""
    if field:
        words = f"{field}: the key {current.get().key_id} is for some models only, and with this it could run its own code where they run"
        more = "leave it out, launch with a key for all models, or write `launch: full` into this key's entry"
        raise GatewayError(403, f"{words}; {more}", code="launch_not_allowed")


def _check(name: str) -> None:
    if not current.get().may_use(name):
        raise GatewayError(403, f"model: the key {current.get().key_id} is not for {name}", code="model_not_allowed")
