"""A folder belongs to one server at a time: two would write over each other's record."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """ValueError where another has it, or it cannot be written. The kernel gives it back however the process ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("ab")
    except OSError as error:
        raise ValueError(f"{folder} cannot be used ({error.strerror}): give another with --state-dir") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            words = f"{folder} is in use by another `jitney local`: stop that one, or give another folder with --state-dir"
            raise ValueError(words) from error
        yield
