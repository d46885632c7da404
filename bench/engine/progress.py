"""What a person sees while something takes long: one line for each thing that begins or ends, on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Seconds between two lines about the same thing.
EVERY = 5.0


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Says `what` at the beginning, and every few seconds that it still goes on."""
    say(what)
    begun, over = time.monotonic(), threading.Event()

    def tell() -> None:
        while not over.wait(EVERY):
            say(f"  {what}: {time.monotonic() - begun:.0f} s")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
