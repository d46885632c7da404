"""Processes that a harness started: recorded on disk at once, and stopped by that record only."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

LOG_TAIL = 40


@dataclass(frozen=True)
class Running:
    """A started process. `ticks` is its start time in /proc: a number that came round again is not ours."""

    name: str
    pid: int
    ticks: int
    log: str

    def alive(self) -> bool:
        return _ticks(self.pid) == self.ticks


class Processes:
    """The processes of one folder, in the order they were started."""

    def __init__(self, folder: Path, lasting: bool = False) -> None:
        """`lasting` ones outlive this program; the others get SIGTERM when it dies, however it dies."""
        self.folder = folder
        self.lasting = lasting
        self.record = folder / "processes.json"
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self.running: list[Running] = self._recorded()

    def _recorded(self) -> list[Running]:
        if not self.record.is_file():
            return []
        return [Running(**entry) for entry in json.loads(self.record.read_text())]

    def _remember(self) -> None:
        unfinished = self.record.with_suffix(".new")
        unfinished.write_text(json.dumps([asdict(process) for process in self.running], indent=1))
        unfinished.replace(self.record)

    def start(self, name: str, command: Sequence[str | Path], env: dict[str, str] | None = None) -> Running:
        """Start `command` with its output in logs/NAME.log."""
        log = self.folder / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            child = subprocess.Popen(
                [*self._bound_to_us(), *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | (env or {}),
                # A session of its own: Ctrl-C in the terminal is ours to answer, in our order.
                start_new_session=True,
            )
        running = Running(name, child.pid, _ticks(child.pid) or 0, str(log))
        self._children[child.pid] = child
        self.running.append(running)
        self._remember()
        return running

    def _bound_to_us(self) -> list[str]:
        setpriv = shutil.which("setpriv")
        return [] if self.lasting or not setpriv else [setpriv, "--pdeathsig", "TERM"]

    def wait(self, process: Running, ready: Callable[[], bool], seconds: float) -> None:
        """Until `ready` says so; RuntimeError with the end of the log when the process dies or the time is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._reap()
            if not process.alive():
                raise RuntimeError(f"{process.name} died while starting\n{tail(process.log)}")
            if ready():
                return
            time.sleep(0.1)
        raise RuntimeError(f"{process.name} was not ready after {seconds:.0f} s\n{tail(process.log)}")

    def stop(self, name: str, seconds: float = 10) -> None:
        """Stop the processes of that name: SIGTERM, then SIGKILL when it takes too long."""
        for process in [process for process in self.running if process.name == name]:
            self._end(process, seconds)
            self.running.remove(process)
        self._remember()

    def stop_all(self, seconds: float = 10) -> None:
        """Stop everything, the last started first."""
        for process in reversed(self.running):
            self._end(process, seconds)
        self.running.clear()
        self.record.unlink(missing_ok=True)

    def _end(self, process: Running, seconds: float) -> None:
        for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
            if not process.alive():
                break
            os.kill(process.pid, number)
            self._wait_for_end(process, patience)

    def _wait_for_end(self, process: Running, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while process.alive() and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.05)

    def _reap(self) -> None:
        """A child that ended stays a zombie until somebody asks."""
        for child in self._children.values():
            child.poll()


def tail(log: str | Path, lines: int = LOG_TAIL) -> str:
    """The end of a log, for an error message."""
    path = Path(log)
    if not path.is_file():
        return f"(no log at {path})"
    last = path.read_text(errors="replace").splitlines()[-lines:]
    return "\n".join([f"--- the end of {path}", *last])


def _ticks(pid: int) -> int | None:
    """Start time of a living process; None when there is none (a zombie counts as none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else int(fields[19])
