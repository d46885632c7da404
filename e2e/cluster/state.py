"""One machine, one throwaway cluster: who owns it, where it lies, and a lock while it is started or stopped."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

# Fixed for the machine: two checkouts, or two caches, must meet here.
FOLDER = Path("/var/lib/jitney-throwaway")
LOCK = Path("/run/lock/jitney-throwaway.lock")
LOCK_SECONDS = 600


@dataclass(frozen=True)
class Owner:
    """Who started the cluster."""

    checkout: str
    pid: int
    started: str

    @classmethod
    def us(cls, checkout: Path) -> Owner:
        return cls(str(checkout), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S"))


def record(owner: Owner) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "owner.json").write_text(json.dumps(asdict(owner)))


def recorded() -> Owner | None:
    """The owner of the cluster that is there, or was and has not been cleared."""
    path = FOLDER / "owner.json"
    return Owner(**json.loads(path.read_text())) if path.is_file() else None


@contextmanager
def lock() -> Iterator[None]:
    """Held while a cluster is started or stopped; RuntimeError after ten minutes of somebody else holding it."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    with LOCK.open("w") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _taken(file.fileno()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"another program has been starting or stopping the throwaway cluster for {LOCK_SECONDS} s ({LOCK})")
            time.sleep(0.5)
        yield


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
