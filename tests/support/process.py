"""A real jitney-runtime process: started, waited for, asked, stopped, and always ended."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from cluster import ports


@dataclass
class RuntimeProcess:
    process: subprocess.Popen[bytes]
    url: str
    folder: Path
    start_seconds: float = 0.0

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def termination_line(self) -> str:
        return (self.folder / "termination").read_text()

    def ready_status(self) -> dict[str, Any] | None:
        """The body of /readyz; None while nothing listens."""
        try:
            return dict(httpx.get(f"{self.url}/readyz", timeout=5).json())
        except httpx.TransportError:
            return None

    def wait_ready(self, seconds: float = 120) -> list[dict[str, Any]]:
        """Wait until ready; every different answer of /readyz on the way."""
        seen: list[dict[str, Any]] = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            status = self.ready_status()
            if status and status not in seen:
                seen.append(status)
            if status == {"status": "ready"}:
                return seen
            time.sleep(0.05)
        raise AssertionError(f"not ready (exit code {self.process.poll()}):\n{self.log}")

    def wait_exit(self, seconds: float = 120) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds} s:\n{self.log}") from None

    @property
    def anonymous(self) -> int:
        """Bytes of both its processes that no file backs."""
        return anonymous_memory(self.process.pid) + anonymous_memory(self.engine)

    @property
    def engine(self) -> int:
        """The process that holds the model."""
        pid = self.process.pid
        (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


def anonymous_memory(process: int | str = "self") -> int:
    """Bytes of a process that no file backs."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


@contextmanager
def running_runtime(folder: Path, *arguments: str, memory: int | None = None, **environment: str) -> Iterator[RuntimeProcess]:
    """`jitney-runtime` on a free port, its log and termination line in `folder`. `memory` is what it may allocate and map, in bytes."""
    port = ports.free(1)[0]
    command = [sys.executable, "-m", "jitney_runtime", "--port", str(port), "--termination-log", str(folder / "termination"), *arguments]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | environment)
        if memory is not None:
            resource.prlimit(process.pid, resource.RLIMIT_DATA, (memory, memory))
        try:
            yield RuntimeProcess(process, f"http://127.0.0.1:{port}", folder)
        finally:
            process.kill()
            process.wait()
