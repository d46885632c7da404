"""How many replicas the load asks for. Pure: the clock and the load are arguments."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from jitney_operator.api import Autoscaling


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

    def __init__(self, replicas: int) -> None:
        """`replicas` is how many there are now: what an operator that starts goes on from."""
        self.replicas = replicas
        self._wishes: deque[Wish] = deque()

    def look(self, load: float | None, bounds: Autoscaling, now: float) -> int:
        """Replicas from now on. An unknown load asks for what there is: a pod too busy to answer is no reason to scale down."""
        if not self._wishes:
            # The past is unknown and counts as having asked for what it had.
            self._wishes.append(Wish(now, self.replicas))
        wish = bounds.clamp(self.replicas) if load is None else asked_for(load, bounds)
        while self._wishes and self._wishes[-1].replicas <= wish:
            self._wishes.pop()
        self._wishes.append(Wish(now, wish))
        while self._wishes[0].at < now - bounds.delay:
            self._wishes.popleft()
        self.replicas = bounds.clamp(self._wishes[0].replicas)
        return self.replicas
