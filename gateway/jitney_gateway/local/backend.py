"""The models of this machine, by uid. Lives on the event loop; every change is on disk before it is answered."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import re
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

from jitney_gateway.bell import Bell
from jitney_gateway.catalogue import Catalogue, Entry
from jitney_gateway.destination import Destination, of_model
from jitney_gateway.errors import GatewayError, bad_field, unknown_model
from jitney_gateway.failure import Failure
from jitney_gateway.fit import Fit, Verdict
from jitney_gateway.launch import UID, Launch
from jitney_gateway.local import folders, memory, weights
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
# Processes of one model, each with its weights.
MOST_REPLICAS = 32
# A launch that waits looks so often even when nothing is told: a failure lasts without a word.
PERIOD = 5.0
# A name on the hub; one that begins with a dot would be a folder.
REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")


class LocalBackend:
    def __init__(self, folder: Path, catalogue: Catalogue, log_level: str = "info", check_memory: bool = True) -> None:
        """`folder` holds the record of launches and the runtimes' logs. What was launched before is listed from now on, and started by
        start(). ValueError where the record cannot be read."""
        self._catalogue, self._log_level, self._check_memory = catalogue, log_level, check_memory
        self._state = State(folder)
        self.registry = LocalRegistry(folder)
        self._logs = folder / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._running: dict[str, Running] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._bell, self._leaving = Bell(), False
        for uid, launch in self._state.read().items():
            self._running[uid] = self._recalled(uid, launch)

    async def start(self) -> None:
        """Begin with what was launched before."""
        # It may have been told to stop meanwhile.
        for running in () if self._leaving else tuple(self._running.values()):
            for runtime in running.runtimes:
                runtime.start()

    def _recalled(self, uid: str, launch: Launch) -> Running:
        """One that cannot be started stays in the list with the reason, until it is terminated or can be. Whether there is memory for it
        was asked when it was launched."""
        try:
            if not re.fullmatch(UID, uid):
                raise bad_field("model_uid", f"{uid!r} can be none here: terminate it, and launch it with another")
            return self._prepared(uid, launch)
        except GatewayError as error:
            logger.error("%s was launched before and cannot be now: %s", uid, error.detail)
            return Running(launch, int(time.time()), failure=error.detail)

    async def stop(self) -> None:
        """Ends every process, and waits for those that are ending; the record stays. Whoever waits for a model or follows a log is let go
        first, and nothing is begun any more."""
        self._leaving = True
        self._bell.ring()
        runtimes = [runtime for running in self._running.values() for runtime in running.runtimes]
        await asyncio.gather(_stopped(*runtimes), *self._ending)

    async def fit(self, launch: Launch) -> Fit:
        self._new_uid(launch)
        _check(launch)
        free = memory.available()
        _, entry = self._resolve(launch)
        if entry is None:
            there = f"{free / memory.GIB:.1f} GiB are free on this machine"
            return Fit(Verdict.UNKNOWN, f"{there}; how much this model needs is known once it is loaded")
        return memory.fit(launch, entry, free, self._promised())

    async def launch(self, launch: Launch) -> str:
        self._stay()
        uid = self._new_uid(launch)
        running = self._prepared(uid, self._catalogue.pinned(launch))
        self._check_room(running.launch)
        # Written before anything runs: no process is there that nobody lists.
        self._remember({**self._running, uid: running})
        for runtime in running.runtimes:
            runtime.start()
        return uid

    def _new_uid(self, launch: Launch) -> str:
        """GatewayError (400) where the wanted one is taken."""
        uid = launch.wanted_uid()
        if uid not in self._running:
            return uid
        if launch.uid:
            raise GatewayError(400, f"Model is already in the model list, uid: {uid}", code="model_exists")
        return launch.another_uid()

    def _stay(self) -> None:
        if self._leaving:
            raise GatewayError(503, "this front door is leaving: its models come back when it is started again", code="leaving")

    def _prepared(self, uid: str, launch: Launch) -> Running:
        """With processes that are not started yet."""
        _check(launch)
        reference, entry = self._resolve(launch)
        context = launch.max_model_len or (entry.context if entry else 0) or None
        needs = memory.needs(launch, entry) if entry else 0
        runtimes = tuple(self._runtime(uid, launch, reference, number) for number in range(launch.replicas))
        return Running(launch, int(time.time()), reference, context, runtimes, needs)

    def _check_room(self, launch: Launch) -> None:
        """GatewayError (503) where its replicas do not fit beside what runs and what is loading. What lies on a hub, and nobody says how
        large, is not checked."""
        _, entry = self._resolve(launch)
        if self._check_memory and entry:
            memory.check(launch, entry, memory.available(), self._promised())

    def _promised(self) -> int:
        return sum(running.promised() for running in self._running.values())

    def _runtime(self, uid: str, launch: Launch, reference: str, number: int) -> Runtime:
        return Runtime(f"{uid}-{number}", self._arguments(uid, launch, reference), launch.envs, self._logs, self._bell.ring)

    def _resolve(self, launch: Launch) -> tuple[str, Entry | None]:
        """What the runtime is to load, and what is known of it before: of a catalogue name all, of a folder what its weights say, of a
        repository the size that a person says."""
        if launch.model_path and launch.model_path.startswith("hf://"):
            return _sized(launch, _repository("model_path", launch.model_path))
        if launch.model_path:
            folder = folders.found("model_path", launch.model_path)
            if launch.revision:
                raise bad_field("revision", "pins a commit on the hub and means nothing for a folder: leave it out")
            return str(folder), _entry(launch, str(folder), weights.parameters(folder))
        if "/" in launch.name:
            return _sized(launch, _repository("model_name", launch.name))
        entry = self._catalogue.find(launch.name, launch.size)
        return entry.repository, entry

    def _arguments(self, uid: str, launch: Launch, reference: str) -> tuple[str, ...]:
        flags = {
            "--model": reference,
            "--served-model-name": uid,
            "--max-num-seqs": launch.max_num_seqs,
            "--quantization": launch.quantization,
            "--device": launch.device,
            "--drain-seconds": DRAIN_SECONDS,
            # Another model may want the same GPU, or the limit of the container that all run in.
            "--memory-share": 0.7,
            "--log-level": self._log_level,
            "--max-model-len": launch.max_model_len,
            "--revision": launch.revision,
            "--dtype": launch.dtype,
        }
        words = tuple(str(word) for flag, value in flags.items() if value is not None for word in (flag, value))
        return (*words, *launch.of_answers(), *(("--trust-remote-code",) if launch.trust_remote_code else ()))

    async def add_replicas(self, uid: str, count: int) -> list[int]:
        """The machine must hold them all; which GPU they share is not chosen here."""
        self._stay()
        running = self._known(uid)
        if running.failure:
            raise GatewayError(400, f"{uid} was not started: {running.failure}", code="model_failed")
        if len(running.runtimes) + count > MOST_REPLICAS:
            raise bad_field("replica", f"{uid} has {len(running.runtimes)}, and at most {MOST_REPLICAS} are started on one machine")
        reference, _ = self._resolve(running.launch)
        self._check_room(dataclasses.replace(running.launch, replicas=count))
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
        await self._end(gone)
        return left

    def _known(self, uid: str) -> Running:
        running = self._running.get(uid)
        if running is None:
            raise unknown_model(uid, list(self._running))
        return running

    def _keep(self, running: Running, runtimes: tuple[Runtime, ...]) -> None:
        launch = dataclasses.replace(running.launch, replicas=len(runtimes))
        uid = next(uid for uid, other in self._running.items() if other is running)
        self._write({**self._running, uid: dataclasses.replace(running, launch=launch)})
        running.runtimes, running.launch = runtimes, launch
        self._bell.ring()

    def machines(self) -> tuple[Machine, ...]:
        return (Machine.here(),)

    async def ready(self, uid: str) -> None:
        failure, loop = Failure(), asyncio.get_running_loop()
        while True:
            self._stay()
            running = self._running.get(uid)
            if running is None:
                raise GatewayError(499, f"the launch of {uid} was cancelled", code="cancelled")
            model = running.model(uid)
            if model.status == ERROR:
                raise GatewayError(500, model.message, code="launch_failed")
            if model.status == READY:
                return
            if reason := failure.lasting(model.failing, loop.time()):
                raise GatewayError(500, reason, code="launch_failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD):
                    await self._bell.wait()

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
        await self._bell.wait()

    def unready(self) -> str:
        return "leaving" if self._leaving else ""

    async def terminate(self, uid: str) -> None:
        running = self._known(uid)
        self._remember({other: kept for other, kept in self._running.items() if other != uid})
        self._bell.ring()
        await self._end(*running.runtimes)

    async def _end(self, *runtimes: Runtime) -> None:
        """Of processes that are not listed any more. Their answers are finished also where the request that ended them is not."""
        ending = asyncio.create_task(_stopped(*runtimes))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        await asyncio.shield(ending)

    async def log(self, uid: str, replica: str | None, lines: int, follow: bool) -> AsyncIterator[bytes]:
        running = self._known(uid)
        chosen = running.replica(uid, replica or None, 404)

        def goes_on() -> bool:
            # One that was terminated has last words until its process is gone.
            kept = self._running.get(uid) is running and chosen in running.runtimes
            return follow and not self._leaving and (kept or chosen.pid is not None)

        return tail(chosen.log, lines, goes_on)

    def _remember(self, models: dict[str, Running]) -> None:
        """They count once they are written. GatewayError (507) where they cannot be, and nothing has changed."""
        self._write(models)
        self._running = models

    def _write(self, models: dict[str, Running]) -> None:
        self._state.write({uid: dataclasses.replace(running.launch, uid=uid) for uid, running in models.items()})


async def _stopped(*runtimes: Runtime) -> None:
    await asyncio.gather(*(runtime.stop(DRAIN_SECONDS + 10) for runtime in runtimes))


def _repository(field: str, reference: str) -> str:
    """GatewayError (400) where it is no name on the hub: a runtime would take it for a folder."""
    name = reference.removeprefix("hf://")
    if not REPOSITORY.fullmatch(name):
        raise bad_field(field, f"must be org/repo as on the hub, not {reference!r}; for a folder give its path as model_path")
    return name


def _sized(launch: Launch, repository: str) -> tuple[str, Entry | None]:
    return repository, _entry(launch, repository, int(Decimal(launch.size) * 10**9) if launch.size else None)


def _entry(launch: Launch, reference: str, parameters: int | None) -> Entry | None:
    """Its window, and what its keys and values take, are known once it is loaded."""
    if parameters is None:
        return None
    return Entry(launch.name, launch.size or "", reference, launch.revision, parameters, context=0, kv_elements=0)


def _check(launch: Launch) -> None:
    """What no machine alone can do. GatewayError (400) with the field's name."""
    if launch.replicas > MOST_REPLICAS:
        raise bad_field("replica", f"at most {MOST_REPLICAS} are started on one machine, not {launch.replicas}")
    for name in launch.envs:
        if name.startswith("JITNEY_"):
            raise bad_field("envs", f"{name} would change what the server itself tells the runtime: use the fields of the launch instead")
