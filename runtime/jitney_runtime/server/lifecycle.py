"""From start to exit: HTTP first, then the model on a thread of its own, then the drain.

SIGTERM: readiness fails at once; requests are taken for GRACE_SECONDS more, because the removal of the endpoint races the signal; then 503
with Connection: close, while answers finish for at most --drain-seconds; what is left then is told so. A second signal ends at once, and so
does the first one while there is no model yet.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn

from jitney_runtime.engine.sequence import FinishReason
from jitney_runtime.errors import EngineGone, StartError
from jitney_runtime.server.app import create_app
from jitney_runtime.server.metrics import Metrics
from jitney_runtime.server.state import ServerState, Serving
from jitney_runtime.settings import RuntimeSettings

logger = logging.getLogger(__name__)

GRACE_SECONDS = 5.0
# How often the drain looks whether the last answer is out.
_LOOK_SECONDS = 0.05

# Loads on a worker thread, returns on it; the engine is started on the event loop. Raises StartError.
Loader = Callable[[ServerState], Serving]


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: leaving is ours to order."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Lifecycle:
    """One server's life. `run` returns the process's exit code."""

    def __init__(self, settings: RuntimeSettings, load: Loader, grace_seconds: float = GRACE_SECONDS) -> None:
        self.settings = settings
        self.state = ServerState(settings, Metrics(settings.served_model_name))
        self._load = load
        self._grace_seconds = grace_seconds
        self._draining: asyncio.Task[None] | None = None
        self._lost: StartError | None = None
        self.state.lost = self._lose
        config = uvicorn.Config(
            create_app(self.state),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=5,
        )
        self._server = _Server(config)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave)
        try:
            listener = _listener(self.settings)
        except OSError as error:
            return self._failed(OSError(f"cannot listen on {self.settings.host} port {self.settings.port}: {error.strerror}"))
        loading = asyncio.create_task(self._start_model())
        await self._server.serve(sockets=[listener])
        if self.state.serving:
            self.state.serving.engine.stop()
        if self._lost:
            return self._failed(self._lost)
        if self._draining is None and loading.done() and (failure := loading.exception()):
            return self._failed(failure)
        # A loading thread cannot be stopped; the process ends without waiting for it.
        loading.cancel()
        return 0

    async def _start_model(self) -> None:
        started = asyncio.get_running_loop().time()
        try:
            serving = await _on_thread(lambda: self._load(self.state))
        except Exception as error:
            self.state.failure = error if isinstance(error, StartError) else None
            self._server.should_exit = True
            raise
        if self.settings.chat_template is not None:
            serving.tokenizer.chat_template = self.settings.chat_template
        if not serving.tokenizer.chat_template:
            logger.warning("%s has no chat template: every chat request will be refused", self.settings.model)
        serving.engine.start()
        _give_way()
        self.state.metrics.load_seconds.set(asyncio.get_running_loop().time() - started)
        self.state.serving = serving
        logger.info("ready: %s on http://%s:%d/v1", self.settings.served_model_name, self.settings.host, self.settings.port)

    def _lose(self, error: StartError) -> None:
        """What was being answered has its error by now, and the server goes as the engine's process went."""
        self._lost = error
        # The last word is the engine's process's, not that of clients who do not take their answers' ends.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._server.should_exit = True

    def _leave(self) -> None:
        if self._draining is not None:
            logger.warning("asked twice to stop: ending now")
            self._server.should_exit = self._server.force_exit = True
            return
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        state = self.state
        state.draining = True
        if state.serving is not None:
            logger.info("stopping: requests are taken for %g more seconds", self._grace_seconds)
            await asyncio.sleep(self._grace_seconds)
            state.refusing = True
            logger.info("draining: %d requests may finish within %d seconds", state.in_flight, self.settings.drain_seconds)
            deadline = asyncio.get_running_loop().time() + self.settings.drain_seconds
            while state.in_flight and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(_LOOK_SECONDS)
            if state.in_flight:
                logger.warning("%d requests are cut: they did not finish within --drain-seconds", state.in_flight)
                state.serving.engine.end_all(FinishReason.ABORT)
        self._server.should_exit = True

    def _failed(self, error: BaseException) -> int:
        """One line for the resource, the whole story for the log; the exit code."""
        expected = isinstance(error, StartError)
        line = f"{error.reason}: {error}" if isinstance(error, StartError) else f"CrashLoop: {type(error).__name__}: {error}"
        if isinstance(error, EngineGone):
            # Its last words are the log's last, where Kubernetes finds them if nobody writes a line. A signal leaves none.
            logger.log(logging.ERROR if error.exit_code > 128 else logging.DEBUG, "the server ends: %s", error)
            return error.exit_code
        logger.error("the server cannot start: %s", line, exc_info=error if error.__cause__ or not expected else None)
        write_termination_line(self.settings.termination_log, line)
        return error.exit_code if isinstance(error, StartError) else StartError.exit_code


def _give_way() -> None:
    """This thread, and those it makes from now on, take no core from a kernel in the middle of its work, for which the whole step would
    wait: they get one as soon as a kernel's thread has nothing to do."""
    if hasattr(os, "SCHED_BATCH"):
        with suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _listener(settings: RuntimeSettings) -> socket.socket:
    """Bound here and not by uvicorn, which ends the process on its own when it cannot."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family, backlog=2048)


def _on_thread(work: Callable[[], Serving]) -> asyncio.Future[Serving]:
    """On a daemon thread: those of asyncio's own executor are waited for at the end, and a download or a load may take minutes."""
    result: Future[Serving] = Future()

    def run() -> None:
        result.set_running_or_notify_cancel()
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return asyncio.wrap_future(result)


def write_termination_line(path: str, line: str) -> None:
    """Kubernetes keeps 4096 bytes of it. Outside a pod there is no such file, and that is no error."""
    target = Path(path)
    if target.parent.is_dir() and (target.exists() or not str(target).startswith("/dev/")):
        try:
            target.write_text(" ".join(line.split())[:4000])
        except OSError as error:
            # The exit code still tells the cause; it must not be lost to a full or read-only disk.
            logger.error("the termination line cannot be written to %s: %s", path, error)
