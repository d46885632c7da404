"""One runtime process: started, asked how far it is, started again when it dies, stopped in order. Lives on the event loop.

A cause that starting again cannot mend (no such model, not enough memory, a wrong flag) ends the attempts; anything else is tried again,
slower each time: what the machine refuses (no room for a log, no memory for a process) and an engine that has stopped, too. The process
gets SIGTERM when the one that started it dies, however it dies.
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
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp

from jitney_gateway.local import backoff
from jitney_gateway.model import ERROR, LOADING, READY
from jitney_gateway.progress import share

logger = logging.getLogger(__name__)

PERIOD = 0.25
# A process that says so long that it is dead is ended, as in a cluster.
DEAD_SECONDS = 5.0
# Of this server's surroundings these are its own, a key among them: what a runtime is told is told by its flags.
NOT_INHERITED = ("JITNEY_", "XINFERENCE_")
# Exit codes after which another attempt ends the same way (the runtime's own, see ARCHITECTURE).
FINAL = {2, 10, 11, 13, 14, 15, 16, 17, 18, 19}
_PR_SET_PDEATHSIG = 1


class Runtime:
    """`status`, `stage`, `progress` and `message` are what was last seen; `changed` is called on the loop when they move. `failure` has the
    words of the last attempt that failed, until one has come further than any that did."""

    def __init__(self, name: str, arguments: tuple[str, ...], envs: Mapping[str, str], folder: Path, changed: Callable[[], None]) -> None:
        """`folder` gets NAME.log, which goes on over restarts. What stands behind the last dash of the name is its id."""
        self.name, self._arguments, self._envs, self._folder, self._changed = name, arguments, envs, folder, changed
        self.status, self.stage, self.progress, self.message = LOADING, "launching", 0.0, ""
        self._failed, self._furthest = "", 0.0
        self.port = 0
        self._stopping = False
        # When the process was first seen ready, on the loop's clock.
        self._ready_since: float | None = None
        # What a process that was ended said of itself.
        self._dead = ""
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def id(self) -> str:
        return self.name.rpartition("-")[2]

    @property
    def failure(self) -> str:
        return self._failed if self.progress <= self._furthest else ""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    @property
    def log(self) -> Path:
        return self._folder / f"{self.name}.log"

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name=f"runtime {self.name}")

    async def stop(self, seconds: float) -> None:
        """SIGTERM, and SIGKILL after `seconds` or when it is cancelled; returns when the process is gone."""
        self._stopping = True
        if self._process and self._process.returncode is None:
            self._process.terminate()
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._process.wait()
            finally:
                self._kill()
            await self._process.wait()
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def _kill(self) -> None:
        if self._process and self._process.returncode is None:
            self._process.kill()

    async def _keep(self) -> None:
        pause = 0.0
        while not self._stopping:
            final, words = await self._attempt()
            if self._stopping:
                return
            self._failed, self._furthest = words, max(self._furthest, self.progress)
            if final:
                self._say(ERROR, "error", 0.0, words)
                return
            pause = backoff.pause(pause, self._served())
            self._say(LOADING, "launching", 0.0, f"{words}; started again in {pause:g} s")
            logger.warning("%s: %s", self.name, self.message)
            await asyncio.sleep(pause)

    def _served(self) -> float:
        """Seconds since the process was ready, 0 where it never was."""
        return asyncio.get_running_loop().time() - self._ready_since if self._ready_since else 0.0

    async def _attempt(self) -> tuple[bool, str]:
        """How one ended: whether another would end the same way, and the words."""
        self._ready_since = None
        try:
            code, words = await self._run()
            return code in FINAL, words
        except ValueError as error:
            # A word of the command that can be none.
            return True, f"the runtime cannot be started: {error}"
        except (OSError, subprocess.SubprocessError) as error:
            # This machine is short of disk, memory or processes.
            return False, f"the runtime cannot be started: {error}"

    async def _run(self) -> tuple[int, str]:
        """One process from its start to its end: exit code and last words."""
        self.port, self._dead = _free_port(), ""
        termination = self._folder / f"{self.name}.termination"
        termination.write_text("")
        command = [
            sys.executable,
            "-m",
            "jitney_runtime",
            *self._arguments,
            "--host",
            "127.0.0.1",
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
                env=inherited(os.environ) | dict(self._envs),
                # A session of its own: Ctrl-C in the terminal is answered in our order.
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        watching = asyncio.create_task(self._watch())
        try:
            code = await self._process.wait()
        finally:
            watching.cancel()
        return code, self._dead or _words(termination) or f"the runtime ended with exit code {code}; its log is {self.log}"

    async def _watch(self) -> None:
        dead_since: float | None = None
        loop = asyncio.get_running_loop()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as client:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError, RecursionError):
                    async with client.get(f"{self.address}/readyz") as response:
                        well = self._read(json.loads(await response.read()))
                    dead = not well and await _is_dead(client, self.address)
                    dead_since = (dead_since or loop.time()) if dead else None
                    if dead_since is not None and loop.time() - dead_since >= DEAD_SECONDS:
                        self._dead = self.message
                        # It finishes no answer any more.
                        self._kill()
                        return
                await asyncio.sleep(PERIOD)

    def _read(self, body: object) -> bool:
        """False where it says that it has failed."""
        if not isinstance(body, dict):
            return True
        status, words = body.get("status"), str(body.get("progress", ""))
        if status == "ready":
            self._failed, self._furthest = "", 0.0
            self._ready_since = self._ready_since or asyncio.get_running_loop().time()
            self._say(READY, "ready", 1.0, "")
        elif status == "starting":
            self._say(LOADING, "downloading" if words.startswith("downloading") else "loading", share(words), words)
        elif status == "failed":
            self._say(LOADING, "loading", min(self.progress, 0.95), words)
        return status != "failed"

    def _say(self, status: str, stage: str, progress: float, message: str) -> None:
        before = (self.status, self.stage, self.progress, self.message)
        self.status, self.stage, self.progress, self.message = status, stage, progress, message
        if before != (status, stage, progress, message):
            self._changed()


async def _is_dead(client: aiohttp.ClientSession, address: str) -> bool:
    async with client.get(f"{address}/livez") as response:
        return response.status == 503


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """What a runtime gets of this server's environment."""
    return {name: value for name, value in environment.items() if not name.startswith(NOT_INHERITED)}


def _words(termination: Path) -> str:
    """The last ones of a process; empty where there are none."""
    with contextlib.suppress(OSError):
        return termination.read_text(errors="replace").strip()
    return ""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _die_with_parent() -> None:
    """In the child, before it becomes the runtime."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
