"""Who has how many requests, and who gets the next one. Pure: it counts what it is told, and the clock is an argument.

The counts are this front door's own. A replica has at most 1.25 times the door's mean, rounded up to a whole request, and of several doors
at most the sum of these: with few requests for each replica that is more than 1.25 times the mean of all.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from types import TracebackType
from typing import Self

from jitney_gateway.routing.bounds import Bounds
from jitney_gateway.routing.ring import ring_of

# Seconds for which a replica that could not be reached is asked only when there is no other. Without it the one that answers nobody would
# always have the least to do, and every request would be tried there first.
REST = 5.0


class Full(Exception):
    """Every replica, or this front door, has as many requests as it may."""


class Crowded(Exception):
    """As many requests wait for a model as may."""


class Turn:
    """One request at one replica, until it is released: a context, or `release`, which is safe to repeat."""

    def __init__(self, address: str, over: Callable[[], None]) -> None:
        self.address, self._over = address, over
        self._released = False

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._over()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


class Router:
    """For all models of a front door. A replica is known by its address."""

    def __init__(self, bounds: Bounds, clock: Callable[[], float]) -> None:
        self._bounds, self._clock = bounds, clock
        self._loads: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._resting: dict[str, float] = {}
        self._turns = itertools.count()

    def load(self, address: str) -> int:
        """Requests that it has from here now."""
        return self._loads[address]

    @property
    def in_all(self) -> int:
        """Requests under way, those that are held included."""
        return self._loads.total() + self._held.total()

    @property
    def waiting(self) -> int:
        """Requests that are held."""
        return self._held.total()

    def admit(self) -> None:
        """Full where this front door takes no more."""
        if self.in_all >= self._bounds.in_all:
            raise Full(f"this front door has {self.in_all} requests under way")

    @contextlib.contextmanager
    def held(self, model: str) -> Iterator[None]:
        """A request that waits for its model; Crowded where too many do."""
        if self._held[model] >= self._bounds.held:
            raise Crowded(f"{self._held[model]} requests wait for {model} already")
        self._held[model] += 1
        try:
            yield
        finally:
            self._held[model] -= 1
            if not self._held[model]:
                del self._held[model]

    def take(self, model: str, replicas: Collection[str], key: bytes | None, failed: Collection[str] = ()) -> Turn | None:
        """A turn at one of the `replicas` of `model`, but not at one that has failed this request; None where no other is left. Full where
        all that are left have as many as they may."""
        left = [address for address in replicas if address not in failed]
        if not left:
            return None
        open_ones = {address: self._loads[address] for address in self._rested(left) if self._loads[address] < self._bounds.per_replica}
        if not open_ones:
            raise Full(f"each replica of {model} has {self._bounds.per_replica} requests under way")
        address = self._least(open_ones) if key is None else ring_of(frozenset(replicas)).choose(key, open_ones)
        self._loads[address] += 1
        return Turn(address, lambda: self._release(address))

    def unreachable(self, address: str) -> None:
        """It could not be reached right now."""
        self._resting[address] = self._clock() + REST

    def _rested(self, addresses: list[str]) -> list[str]:
        """Those that are not resting; all, where nobody else is there."""
        now = self._clock()
        self._resting = {address: end for address, end in self._resting.items() if end > now}
        return [address for address in addresses if address not in self._resting] or addresses

    def _least(self, loads: dict[str, int]) -> str:
        """One after the other among those that have the least."""
        least = min(loads.values())
        idle = [address for address, load in loads.items() if load == least]
        return idle[next(self._turns) % len(idle)]

    def _release(self, address: str) -> None:
        self._loads[address] -= 1
        if not self._loads[address]:
            del self._loads[address]
