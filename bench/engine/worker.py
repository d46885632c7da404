"""The other end of inprocess: starts it, asks it, ends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.engine.processes import Refused, Started, end
from bench.engine.progress import telling

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """One engine in a process. Held and let go on as servers are."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self.held = Started(process, "", log, log.with_name("none"))

    def ask(self, do: str, **more: Any) -> Any:
        """The answer of that method of Work. Refused in the last words of a process that ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **more}).encode() + b"\n")
        self._process.stdin.flush()
        return self.answer()["answer"]

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Refused(f"ended with {self._process.wait()}: {self.held.last_words()}")
        found: dict[str, Any] = json.loads(line)
        if "refused" in found:
            raise Refused(found["refused"])
        return found


@contextmanager
def working(name: str, folder: Path, scratch: Path, *flags: str) -> Iterator[Worker]:
    """Loaded. `flags` are the runtime's; Refused in its words where it does not load."""
    log = scratch / f"{name}.log"
    path = os.pathsep.join((str(ROOT), str(ROOT / "e2e")))
    command = [sys.executable, "-m", "bench.engine.inprocess", "--model", str(folder), *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, env=os.environ | {"PYTHONPATH": path}, cwd=ROOT
        )
    try:
        worker = Worker(process, log)
        with telling(f"loading {name}"):
            worker.answer()
        yield worker
    finally:
        end(process)
