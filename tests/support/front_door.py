"""The front door's usual port on this machine. Tests that open it, or count on nobody there, take turns in all processes."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PORT = 9997


@contextmanager
def usual_port() -> Iterator[None]:
    """Nobody else's test has it, for the length of a with block."""
    with (Path(tempfile.gettempdir()) / f"jitney-tests-{PORT}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
