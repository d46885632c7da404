"""The process that holds the model and computes, apart from the one that speaks HTTP: an answer's way out takes the interpreter of one from
its kernels in neither.

It is a fork of the first process, made before anything is imported or begun there, and lives exactly as long. What it is told and tells are
the messages of engine.link, and below those of the start.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from jitney_runtime.engine.link import Limits, News, Order
from jitney_runtime.errors import Crashed, EngineGone, StartError
from jitney_runtime.heap import give_back
from jitney_runtime.progress import Progress, Step
from jitney_runtime.settings import RuntimeSettings
from jitney_runtime.wire import Unframed, Wire, framed

logger = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ready:
    """`folder` holds the model's files."""

    limits: Limits
    folder: Path


class EngineProcess:
    """The first process's hold on it."""

    def __init__(self, pid: int, wire: Wire) -> None:
        self.pid = pid
        self.wire = wire
        self._waiting = threading.Lock()
        # Its exit code, negative for a signal; None while its number cannot be another's.
        self._code: int | None = None

    @classmethod
    def begin(cls, settings: RuntimeSettings) -> EngineProcess:
        """Before there is another thread in this process."""
        # Whoever ignores it, and has started this, would have the kernel forget how a process ended.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        if pid := os.fork():
            theirs.close()
            process = cls(pid, Wire(ours))
            threading.Thread(target=process._hang_up, name="engine-end", daemon=True).start()
            return process
        ours.close()
        return _serve(settings, Wire(theirs), parent)

    def loaded(self, progress: Progress) -> Ready:
        """Blocks until the model is. StartError as loading raised it, or EngineGone."""
        for message in self.wire.messages():
            if isinstance(message, Ready):
                return message
            if isinstance(message, StartError):
                raise message
            assert isinstance(message, Step)
            progress.step = message
        raise self.ended()

    def ended(self) -> EngineGone:
        """Blocks until it is over and its memory free, and says why. From any thread, and more than once."""
        with self._waiting:
            if self._code is None:
                self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if self._code >= 0:
            return EngineGone(f"the engine's process ended with {self._code}", self._code or StartError.exit_code)
        return EngineGone(f"the engine's process was ended by {_signal_name(-self._code)}", 128 - self._code)

    def _hang_up(self) -> None:
        """A process that the engine made may hold the other end of the wire. What was sent before is still read."""
        self.ended()
        with suppress(OSError):
            self.wire.connection.shutdown(socket.SHUT_RDWR)

    def kill(self) -> None:
        if self._code is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


class ProcessLink:
    """engine.link.Link to it. Orders wait until the event loop has taken the wire over."""

    def __init__(self, process: EngineProcess, limits: Limits, lost: Callable[[EngineGone], None]) -> None:
        """`lost` is called on the event loop when the process has ended before it was told to stop."""
        self.limits = limits
        self._process = process
        self._lost = lost
        self._early: list[bytes] = []
        self._transport: asyncio.WriteTransport | None = None
        self._over = False

    def start(self, tell: Callable[[News], None], dead: Callable[[], None]) -> None:
        self._tell, self._dead = tell, dead
        self._loop = asyncio.get_running_loop()
        self._taking = self._loop.create_task(self._take(self._process.wire.connection))

    async def _take(self, connection: socket.socket) -> None:
        transport, _ = await asyncio.get_running_loop().create_unix_connection(lambda: _News(self), sock=connection)
        self._transport = transport
        transport.writelines(self._early)

    def send(self, order: Order) -> None:
        if self._over:
            return
        if self._transport is None:
            self._early.append(framed(order))
        else:
            self._transport.write(framed(order))

    def stop(self) -> None:
        self._over = True
        self._process.kill()
        if self._transport is not None:
            self._transport.close()

    def heard(self, news: News) -> None:
        self._tell(news)

    def cut(self, error: Exception | None) -> None:
        """The wire is closed: its process ends, or must. An `error` that is no end of the other side is one of ours."""
        if self._over:
            return
        self._over = True
        if error is not None and not isinstance(error, ConnectionError):
            logger.error("the wire to the engine's process broke", exc_info=error)
        self._dead()
        self._process.kill()
        threading.Thread(target=self._tell_end, name="engine-lost", daemon=True).start()

    def _tell_end(self) -> None:
        error = self._process.ended()
        # The loop may be over as well.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._lost, error)


class _News(asyncio.Protocol):
    def __init__(self, link: ProcessLink) -> None:
        self._link = link
        self._unframed = Unframed()

    def data_received(self, data: bytes) -> None:
        for message in self._unframed.add(data):
            self._link.heard(message)

    def connection_lost(self, error: Exception | None) -> None:
        self._link.cut(error)


class _Told(Progress):
    """Tells each step."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._step: Step | None = None
        super().__init__()

    @property
    def step(self) -> Step:
        assert self._step is not None
        return self._step

    @step.setter
    def step(self, step: Step) -> None:
        if step != self._step:
            self._step = step
            self._wire.send(step)


# The engine's process only, from here on.


def _serve(settings: RuntimeSettings, wire: Wire, parent: int) -> NoReturn:
    code = 1
    try:
        _end_with(parent)
        _load_and_serve(settings, wire)
        code = 0
    except BrokenPipeError:
        # Whoever reads is about to end this, too.
        code = 0
    except BaseException:
        logger.exception("the engine's process ends")
    finally:
        _end(code)


def _end(code: int = 1) -> NoReturn:
    """What a model's own code has printed may be the last word."""
    logging.shutdown()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(code)


def _end_with(parent: int) -> None:
    """Nobody but the first process ends this one: it decides what a signal means, which a terminal sends to both."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)


def _load_and_serve(settings: RuntimeSettings, wire: Wire) -> None:
    from jitney_runtime.torch_backend.threads import leave_cores_to_kernels

    leave_cores_to_kernels(settings.kernel, os.environ)
    if not settings.trust_remote_code:
        from jitney_runtime.torch_backend.lean import import_transformers

        import_transformers()
    try:
        from jitney_runtime.engine.engine import Engine
        from jitney_runtime.engine.engine_thread import EngineThread
        from jitney_runtime.torch_backend.loading import load

        loaded = load(settings, _Told(wire))
    except StartError as error:
        if error.__cause__:
            logger.error("the model cannot be loaded", exc_info=error)
        wire.send(error)
        return
    except Exception as error:
        logger.exception("the model cannot be loaded")
        wire.send(Crashed(f"{type(error).__name__}: {error}"))
        return
    thread = EngineThread(Engine(loaded.scheduler, loaded.runner), wire.send, _end)
    ready = Ready(thread.limits, loaded.folder)
    # Words are the other process's, which has a tokenizer of its own.
    del loaded
    # A million objects that live as long as the process: looking through them took half a second, in the middle of everybody's answer.
    gc.collect()
    gc.freeze()
    give_back()
    # Orders come while a step is prepared, which on a GPU takes less than the 5 ms that Python has them wait.
    sys.setswitchinterval(0.0005)
    wire.send(ready)
    thread.start()
    for order in wire.messages():
        thread.order(order)
