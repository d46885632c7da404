"""A started server and all processes that it made: held still between its rounds, measured, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

# Seconds after a server is let go on, before it is asked.
AWAKE = 0.3


class Refused(Exception):
    """A server does not start: its own words."""


@dataclass
class Started:
    """`url` without a path, `log` a file, `line` the file for the one line that our runtime leaves when it cannot start."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    line: Path
    seconds: float = 0.0

    def members(self) -> list[int]:
        """The process and all below it, by id."""
        return family(self.process.pid)

    def hold(self) -> None:
        """Stop what an idle server may still do: some spin while they wait."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)
        time.sleep(AWAKE)

    def _signal(self, number: signal.Signals) -> None:
        for member in self.members():
            with suppress(ProcessLookupError):
                os.kill(member, number)

    def anonymous(self) -> int:
        """Bytes of all its processes that no file backs."""
        return sum(_anonymous(member) for member in self.members())

    def last_words(self) -> str:
        if self.line.is_file() and (said := self.line.read_text().strip()):
            return said
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "Error" in line or "error:" in line]
        return " ".join((errors or lines or ["it said nothing"])[-1:])[-300:]

    def wait_ready(self, path: str, seconds: float) -> None:
        """Refused when it ends or takes longer."""
        begun = time.monotonic()
        while time.monotonic() - begun < seconds:
            if (code := self.process.poll()) is not None:
                raise Refused(f"ended with {code}: {self.last_words()}")
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}{path}", timeout=5, trust_env=False).status_code == 200:
                    self.seconds = time.monotonic() - begun
                    return
            time.sleep(0.1)
        raise Refused(f"not ready after {seconds:.0f} s: {self.last_words()}")


@contextmanager
def started(command: list[str], url: str, folder: Path, environment: Mapping[str, str]) -> Iterator[Started]:
    """In a session of its own; every process of it is gone afterwards. `folder` is made, and is where it runs."""
    folder.mkdir(parents=True, exist_ok=True)
    log, line = folder / "log", folder / "termination"
    line.unlink(missing_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=dict(environment), cwd=folder, start_new_session=True
        )
    made = Started(process, url, log, line)
    try:
        yield made
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """It and what it started, also where that has a session of its own. One that was held is ended all the same."""
    for member in family(process.pid):
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def family(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with suppress(OSError, ValueError):
                parents.setdefault(int((place / "stat").read_text().rpartition(") ")[2].split()[1]), []).append(int(place.name))
    found = [pid]
    for member in found:
        found += parents.get(member, [])
    return found


def _anonymous(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
    return 0
