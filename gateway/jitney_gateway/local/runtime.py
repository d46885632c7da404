"""One runtime process: started, asked how far it is, started again when it dies, stopped in order. Lives on the event loop.

A cause that starting again cannot mend (no such model, not enough memory, a wrong flag) ends the attempts; anything else is tried again,
slower each time. The process gets SIGTERM when the one that started it dies, however it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp

from jitney_gateway.model import ERROR, LOADING, READY
from jitney_gateway.progress import share

logger = logging.getLogger(__name__)

PERIOD = 0.25
# Seconds before the next attempt; a run of LASTING seconds was a good one.
FIRST_PAUSE, LONGEST_PAUSE, LASTING = 1.0, 30.0, 60.0
# Exit codes after which another attempt ends the same way (the runtime's own, see ARCHITECTURE).
FINAL = {2, 10, 11, 13, 14, 15, 16, 17, 18, 19}
_PR_SET_PDEATHSIG = 1


class Runtime:
    """`status`, `stage`, `progress` and `message` are what was last seen; `changed` is called on the loop when they move."""

    def __init__(self, name: str, arguments: tuple[str, ...], envs: Mapping[str, str], folder: Path, changed: Callable[[], None]) -> None:
        """`folder` gets NAME.log, which goes on over restarts. What stands behind the last dash of the name is its id."""
        self.name, self._arguments, self._envs, self._folder, self._changed = name, arguments, envs, folder, changed
        self.status, self.stage, self.progress, self.message = LOADING, "launching", 0.0, ""
        self.port = 0
        self.restarts = 0
        self._stopping = False
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def id(self) -> str:
        return self.name.rpartition("-")[2]

    @property
    def log(self) -> Path:
        return self._folder / f"{self.name}.log"

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name=f"runtime {self.name}")

    async def stop(self, seconds: float) -> None:
        """SIGTERM, and SIGKILL after `seconds`; returns when the process is gone."""
        self._stopping = True
        if self._process and self._process.returncode is None:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), seconds)
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping:
            begun = asyncio.get_running_loop().time()
            code, words = await self._run()
            if self._stopping:
                return
            if code in FINAL:
                self._say(ERROR, "error", 0.0, words)
                return
            pause = FIRST_PAUSE if asyncio.get_running_loop().time() - begun > LASTING else min(LONGEST_PAUSE, pause * 2)
            self.restarts += 1
            self._say(LOADING, "launching", 0.0, f"{words}; started again in {pause:.0f} s")
            logger.warning("%s: %s", self.name, self.message)
            await asyncio.sleep(pause)

    async def _run(self) -> tuple[int, str]:
        """One process from its start to its end: exit code and last words."""
        self.port = _free_port()
        termination = self._folder / f"{self.name}.termination"
        termination.write_text("")
        command = [
            sys.executable,
            "-m",
            "jitney_runtime",
            *self._arguments,
            "--port",
            str(self.port),
            "--termination-log",
            str(termination),
        ]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | dict(self._envs),
                # A session of its own: Ctrl-C in the terminal is answered in our order.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        watching = asyncio.create_task(self._watch())
        code = await self._process.wait()
        watching.cancel()
        return code, termination.read_text().strip() or f"the runtime ended with exit code {code}; its log is {self.log}"

    async def _watch(self) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as client:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
                    async with client.get(f"{self.address}/readyz") as response:
                        self._read(json.loads(await response.read()))
                await asyncio.sleep(PERIOD)

    def _read(self, body: dict[str, str]) -> None:
        if body.get("status") == "ready":
            self._say(READY, "ready", 1.0, "")
        elif body.get("status") == "starting":
            words = body.get("progress", "")
            self._say(LOADING, "downloading" if words.startswith("downloading") else "loading", share(words), words)

    def _say(self, status: str, stage: str, progress: float, message: str) -> None:
        before = (self.status, self.stage, self.progress, self.message)
        self.status, self.stage, self.progress, self.message = status, stage, progress, message
        if before != (status, stage, progress, message):
            self._changed()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _die_with_parent() -> None:
    """In the child, before it becomes the runtime."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
