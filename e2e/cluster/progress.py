"""Lines that a waiting person reads: what began, that it still runs, how long it took."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self

HEARTBEAT_SECONDS = 15


def say(text: str) -> None:
    """One line on standard error, so that a command's own output stays clean."""
    print(text, file=sys.stderr, flush=True)


class Step:
    """Announces a piece of work, repeats itself while it takes long, and tells the seconds."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._over = threading.Event()

    def __enter__(self) -> Self:
        say(f"{self.text} ...")
        self._started = time.monotonic()
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        say(f"{self.text}: {'failed' if kind else 'done'} after {self._seconds():.0f} s")

    def _seconds(self) -> float:
        return time.monotonic() - self._started

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            say(f"{self.text} ... {self._seconds():.0f} s")
