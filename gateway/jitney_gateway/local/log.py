"""A log file from its end, and on as it grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

PERIOD = 0.25
# However many lines were asked for.
MOST_BYTES = 8 * 1024 * 1024


async def tail(file: Path, lines: int, goes_on: Callable[[], bool]) -> AsyncIterator[bytes]:
    """The last `lines`, then what is added while `goes_on` says so. It may come later, or never, where nothing can be written."""
    while not file.exists():
        if not goes_on():
            return
        await asyncio.sleep(PERIOD)
    with file.open("rb") as log:
        end = log.seek(0, 2)
        log.seek(max(0, end - MOST_BYTES))
        last = log.read().splitlines(keepends=True)[-lines:] if lines else []
        if last:
            yield b"".join(last)
        log.seek(max(end, log.tell()))
        while True:
            # Asked before the last look, so that last words are not missed.
            more = goes_on()
            if data := log.read():
                yield data
            if not more:
                return
            await asyncio.sleep(PERIOD)
