"""How many replicas the load asks for. Pure: the clock and the load are arguments."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from jitney_operator.api import Autoscaling

# Seconds without any load before the last replica goes, whatever the delay: one that was woken by a request must get it before it is judged
# by what it has to do.
QUIET = 15.0


def asked_for(load: float, bounds: Autoscaling) -> int:
    """Replicas for `load` requests, running and waiting ones together."""
    return bounds.clamp(-int(-load // bounds.target))


@dataclass(frozen=True)
class Wish:
    """What the load asked for at one moment, in seconds of a clock that never goes back."""

    at: float
    replicas: int


class Scaler:
    """One resource. More load counts at once; less only when it was less for the whole delay, so the number is the highest of that time."""

    def __init__(self, replicas: int, wanted_at: str = "") -> None:
        """`replicas` is how many there are now: what an operator that starts goes on from. `wanted_at` is of the past then: whoever still
        waits says so again."""
        self.replicas, self._wanted_at = replicas, wanted_at
        self._wishes: deque[Wish] = deque()
        self._busy = 0.0

    def hear(self, wanted_at: str, bounds: Autoscaling, now: float) -> int:
        """Replicas from now on. A front door that says again that requests wait counts as one request of this moment; which moment it names
        is left aside, because clocks differ."""
        news, self._wanted_at = wanted_at != self._wanted_at, wanted_at
        return self._settle(asked_for(1, bounds), bounds, now) if news and wanted_at else self.replicas

    def look(self, load: float | None, bounds: Autoscaling, now: float) -> int:
        """Replicas from now on. An unknown load asks for what there is: a pod too busy to answer is no reason to scale down."""
        return self._settle(bounds.clamp(self.replicas) if load is None else asked_for(load, bounds), bounds, now)

    def _settle(self, wish: int, bounds: Autoscaling, now: float) -> int:
        if not self._wishes:
            # The past is unknown and counts as having asked for what it had.
            self._wishes.append(Wish(now, self.replicas))
            self._busy = now
        if wish:
            self._busy = now
        while self._wishes and self._wishes[-1].replicas <= wish:
            self._wishes.pop()
        self._wishes.append(Wish(now, wish))
        while self._wishes[0].at < now - bounds.delay:
            self._wishes.popleft()
        asked = bounds.clamp(self._wishes[0].replicas)
        self.replicas = 1 if not asked and self.replicas and now - self._busy < QUIET else asked
        return self.replicas
