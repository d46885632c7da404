"""The models of this machine, by uid. Lives on the event loop; every change is on disk before it is answered."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

from jitney_gateway.catalogue import Catalogue
from jitney_gateway.destination import Destination, of_model
from jitney_gateway.errors import GatewayError, unknown_model
from jitney_gateway.fit import Fit, Verdict
from jitney_gateway.launch import Launch
from jitney_gateway.local import memory
from jitney_gateway.local.log import tail
from jitney_gateway.local.registry import LocalRegistry
from jitney_gateway.local.running import Running
from jitney_gateway.local.runtime import Runtime
from jitney_gateway.local.state import State
from jitney_gateway.machine import Machine
from jitney_gateway.model import ERROR, READY, Model

logger = logging.getLogger(__name__)

# For answers that are under way when a model is terminated or the server stops.
DRAIN_SECONDS = 30


class LocalBackend:
    def __init__(self, folder: Path, catalogue: Catalogue, log_level: str = "info", check_memory: bool = True) -> None:
        """`folder` holds the record of launches and the runtimes' logs."""
        self._catalogue, self._log_level, self._check_memory = catalogue, log_level, check_memory
        self._state = State(folder)
        self.registry = LocalRegistry(folder)
        self._logs = folder / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._running: dict[str, Running] = {}
        self._moved = asyncio.Condition()

    async def start(self) -> None:
        """Begin with what was launched before."""
        for uid, launch in self._state.read().items():
            try:
                self._begin(uid, launch)
            except GatewayError as error:
                logger.error("%s was launched before and cannot be now: %s", uid, error.detail)

    async def stop(self) -> None:
        """Ends every process; the record stays."""
        runtimes = [runtime for running in self._running.values() for runtime in running.runtimes]
        await asyncio.gather(*(runtime.stop(DRAIN_SECONDS + 10) for runtime in runtimes))

    async def fit(self, launch: Launch) -> Fit:
        self._new_uid(launch)
        free = memory.available()
        if launch.model_path or "/" in launch.name:
            # Without a look at what may be no more than a name on the hub.
            self._resolve(launch)
            there = f"{free / memory.GIB:.1f} GiB are free on this machine"
            return Fit(Verdict.UNKNOWN, f"{there}; how much this model needs is known once it is loaded")
        return memory.fit(launch, self._catalogue.find(launch.name, launch.size), free)

    async def launch(self, launch: Launch) -> str:
        uid = self._new_uid(launch)
        self._begin(uid, self._catalogue.pinned(launch))
        self._remember()
        return uid

    def _new_uid(self, launch: Launch) -> str:
        """GatewayError (400) where the wanted one is taken."""
        uid = launch.uid or self._free_uid(launch.name)
        if uid in self._running:
            raise GatewayError(400, f"Model is already in the model list, uid: {uid}", code="model_exists")
        return uid

    def _free_uid(self, name: str) -> str:
        return name if name not in self._running else f"{name}-{secrets.token_hex(4)}"

    def _begin(self, uid: str, launch: Launch) -> None:
        reference, context = self._resolve(launch)
        runtimes = tuple(self._runtime(uid, launch, reference, number) for number in range(launch.replicas))
        self._running[uid] = Running(launch, int(time.time()), reference, context, runtimes)
        for runtime in runtimes:
            runtime.start()

    def _runtime(self, uid: str, launch: Launch, reference: str, number: int) -> Runtime:
        return Runtime(f"{uid}-{number}", self._arguments(uid, launch, reference), launch.envs, self._logs, self._say)

    def _resolve(self, launch: Launch) -> tuple[str, int | None]:
        """What the runtime is to load, and the window where it is known."""
        if launch.model_path and launch.model_path.startswith("hf://"):
            return launch.model_path.removeprefix("hf://"), launch.max_model_len
        if launch.model_path:
            folder = Path(launch.model_path.removeprefix("file://"))
            if not folder.is_dir():
                raise GatewayError(400, f"model_path: there is no folder {folder}", code="model_not_found")
            return str(folder.resolve()), launch.max_model_len
        if "/" in launch.name:
            return launch.name, launch.max_model_len
        entry = self._catalogue.find(launch.name, launch.size)
        if self._check_memory:
            memory.check(launch, entry, memory.available())
        return entry.repository, launch.max_model_len or entry.context

    def _arguments(self, uid: str, launch: Launch, reference: str) -> tuple[str, ...]:
        flags = {
            "--model": reference,
            "--served-model-name": uid,
            "--max-num-seqs": launch.max_num_seqs,
            "--quantization": launch.quantization,
            "--device": launch.device,
            "--drain-seconds": DRAIN_SECONDS,
            "--log-level": self._log_level,
            "--max-model-len": launch.max_model_len,
            "--revision": launch.revision,
            "--dtype": launch.dtype,
        }
        words = tuple(str(word) for flag, value in flags.items() if value is not None for word in (flag, value))
        return (*words, "--trust-remote-code") if launch.trust_remote_code else words

    async def add_replicas(self, uid: str, count: int) -> list[int]:
        """The machine must hold one more; which GPU they share is not chosen here."""
        running = self._known(uid)
        reference, _ = self._resolve(running.launch)
        first = max(int(runtime.id) for runtime in running.runtimes) + 1
        added = tuple(self._runtime(uid, running.launch, reference, number) for number in range(first, first + count))
        self._keep(running, (*running.runtimes, *added))
        for runtime in added:
            runtime.start()
        return list(range(first, first + count))

    async def remove_replica(self, uid: str, replica: str) -> int:
        """The last one ends the model."""
        running = self._known(uid)
        gone = running.replica(uid, replica, 400)
        if running.runtimes == (gone,):
            await self.terminate(uid)
            return 0
        self._keep(running, tuple(runtime for runtime in running.runtimes if runtime is not gone))
        left = len(running.runtimes)
        await gone.stop(DRAIN_SECONDS + 10)
        return left

    def _known(self, uid: str) -> Running:
        running = self._running.get(uid)
        if running is None:
            raise unknown_model(uid, list(self._running))
        return running

    def _keep(self, running: Running, runtimes: tuple[Runtime, ...]) -> None:
        running.runtimes, running.launch = runtimes, dataclasses.replace(running.launch, replicas=len(runtimes))
        self._remember()
        self._say()

    def machines(self) -> tuple[Machine, ...]:
        return (Machine.here(),)

    def _say(self) -> None:
        asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    async def ready(self, uid: str) -> None:
        async with self._moved:
            while True:
                model = await self.find(uid)
                if model is None:
                    raise GatewayError(499, f"the launch of {uid} was cancelled", code="cancelled")
                if model.status == ERROR:
                    raise GatewayError(500, model.message, code="launch_failed")
                if model.status == READY:
                    return
                await self._moved.wait()

    async def models(self) -> list[Model]:
        return [running.model(uid) for uid, running in sorted(self._running.items())]

    async def find(self, uid: str) -> Model | None:
        running = self._running.get(uid)
        return running.model(uid) if running else None

    def destination(self, uid: str) -> Destination | None:
        running = self._running.get(uid)
        return of_model(running.model(uid)) if running else None

    def uids(self) -> list[str]:
        return sorted(self._running)

    async def wake(self, uid: str) -> None:
        """Nothing sleeps here."""

    async def moved(self) -> None:
        async with self._moved:
            await self._moved.wait()

    def unready(self) -> str:
        return ""

    async def terminate(self, uid: str) -> None:
        running = self._known(uid)
        del self._running[uid]
        self._remember()
        self._say()
        await asyncio.gather(*(runtime.stop(DRAIN_SECONDS + 10) for runtime in running.runtimes))

    async def log(self, uid: str, replica: str | None, lines: int, follow: bool) -> AsyncIterator[bytes]:
        running = self._known(uid)
        chosen = running.replica(uid, replica or running.runtimes[0].id, 404)
        return tail(chosen.log, lines, lambda: follow and self._running.get(uid) is running and chosen in running.runtimes)

    def _remember(self) -> None:
        self._state.write({uid: dataclasses.replace(running.launch, uid=uid) for uid, running in self._running.items()})
