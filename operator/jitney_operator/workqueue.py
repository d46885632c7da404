"""Keys to reconcile: each at most once in the queue, never twice at work, later again after an error."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from dataclasses import dataclass
from enum import IntEnum

from jitney_operator.api import Key

FIRST_DELAY = 0.1
LONGEST_DELAY = 300.0


class Priority(IntEnum):
    """Lower goes first: a person waits for the first kind."""

    SPEC = 0
    CHILD = 1
    RESYNC = 2


@dataclass(frozen=True)
class _Timer:
    """When a key comes back, on the loop's clock."""

    due: float
    handle: asyncio.TimerHandle


class WorkQueue:
    """One event loop owns it. take() gives a key, done() returns it; what was added meanwhile comes again."""

    def __init__(self) -> None:
        self._dirty: dict[Key, Priority] = {}
        self._ready: list[tuple[Priority, int, Key]] = []
        self._processing: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, _Timer] = {}
        self._order = itertools.count()
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._dirty)

    def add(self, key: Key, priority: Priority = Priority.CHILD) -> None:
        before = self._dirty.get(key)
        if before is not None and before <= priority:
            return
        self._dirty[key] = priority
        if key not in self._processing:
            self._push(key)

    def add_after(self, key: Key, seconds: float, priority: Priority = Priority.CHILD) -> None:
        """Of several wishes the earliest counts: a burst of events is one look, not one for each."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        timer = self._timers.get(key)
        if timer is not None:
            if timer.due <= due:
                return
            timer.handle.cancel()
        self._timers[key] = _Timer(due, loop.call_at(due, self._fire, key, priority))

    def retry(self, key: Key, at_least: float = 0.0, at_most: float = LONGEST_DELAY) -> float:
        """Queue it again after a delay that doubles with every failure; the delay in seconds."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        delay: float = max(at_least, min(at_most, FIRST_DELAY * 2.0 ** min(count, 20) * random.uniform(0.8, 1.2)))
        self.add_after(key, delay, Priority.RESYNC)
        return delay

    def forget(self, key: Key) -> None:
        """It went well: the next failure starts from the shortest delay."""
        self._failures.pop(key, None)

    async def take(self) -> Key:
        """Waits for a key; the caller must give it to done(). The look that follows answers every wish that was waiting for a timer."""
        while True:
            while self._ready:
                priority, _, key = heapq.heappop(self._ready)
                if key not in self._processing and self._dirty.get(key) == priority:
                    del self._dirty[key]
                    self._processing.add(key)
                    self._forget_timer(key)
                    return key
            self._wake.clear()
            await self._wake.wait()

    def done(self, key: Key) -> None:
        self._processing.discard(key)
        if key in self._dirty:
            self._push(key)

    def _fire(self, key: Key, priority: Priority) -> None:
        del self._timers[key]
        self.add(key, priority)

    def _forget_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.handle.cancel()

    def _push(self, key: Key) -> None:
        heapq.heappush(self._ready, (self._dirty[key], next(self._order), key))
        self._wake.set()
