"""From start to exit: HTTP first, then the model on a thread of its own, then the drain.

SIGTERM: readiness fails at once; requests are taken for GRACE_SECONDS more, because the removal of the endpoint races the signal; then 503
with Connection: close, while answers finish for at most --drain-seconds. A second signal ends at once.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from jitney_runtime.errors import StartError
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
        config = uvicorn.Config(
            create_app(self.state),
            host=settings.host,
            port=settings.port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=5,
        )
        self._server = _Server(config)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave)
        serving = asyncio.create_task(self._server.serve())
        loading = asyncio.create_task(self._start_model())
        await serving
        if not loading.done():
            # The loading thread cannot be stopped; the process ends without waiting for it.
            loading.cancel()
        elif not loading.cancelled() and (error := loading.exception()):
            self._record_failure(error)
            return error.exit_code if isinstance(error, StartError) else 1
        if self.state.serving:
            self.state.serving.engine.stop()
        return 0

    async def _start_model(self) -> None:
        started = asyncio.get_running_loop().time()
        try:
            serving = await asyncio.to_thread(self._load, self.state)
        except BaseException as error:
            self.state.failure = error if isinstance(error, StartError) else None
            self._server.should_exit = True
            raise
        serving.engine.start()
        self.state.metrics.load_seconds.set(asyncio.get_running_loop().time() - started)
        self.state.serving = serving
        logger.info("ready: %s on http://%s:%d/v1", self.settings.served_model_name, self.settings.host, self.settings.port)

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
            logger.info("draining: %d answers may finish within %d seconds", state.active_answers, self.settings.drain_seconds)
            deadline = asyncio.get_running_loop().time() + self.settings.drain_seconds
            while state.active_answers and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(_LOOK_SECONDS)
            if state.active_answers:
                logger.warning("%d answers are cut: they did not finish within --drain-seconds", state.active_answers)
        self._server.should_exit = True

    def _record_failure(self, error: BaseException) -> None:
        """One line for the resource, the whole story for the log."""
        if isinstance(error, StartError):
            logger.error("%s: %s", error.reason, error)
            line = f"{error.reason}: {error}"
        else:
            logger.error("the server failed to start", exc_info=error)
            line = f"CrashLoop: {type(error).__name__}: {error}"
        write_termination_line(self.settings.termination_log, line)


def write_termination_line(path: str, line: str) -> None:
    """Kubernetes keeps 4096 bytes of it. Outside a pod there is no such file, and that is no error."""
    target = Path(path)
    if target.parent.is_dir() and (target.exists() or not str(target).startswith("/dev/")):
        target.write_text(" ".join(line.split())[:4000])
