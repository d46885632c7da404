"""The same work for several servers, in turns: neither the machine's mood nor who comes first decides."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.engine import load
from bench.engine.checks import median_ratio
from bench.engine.fleet import awake
from bench.engine.load import Chat, Failed, Round, Side
from bench.engine.progress import say, telling


@dataclass(frozen=True)
class Work:
    """`chats(n)` makes n of them, new ones each time; a round has `count`, the warm-up `warm_up`, and `at_once` clients."""

    name: str
    chats: Callable[[int], list[Chat]]
    count: int
    at_once: int
    warm_up: int


@dataclass
class Compared:
    """Counted rounds by the server's name, and the words of those that failed."""

    rounds: dict[str, list[Round]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def speed(self, name: str) -> float | None:
        """Tokens per second, the median of the rounds."""
        found = self.rounds.get(name)
        return statistics.median(one.speed for one in found) if found else None

    def first(self, name: str) -> float | None:
        """Seconds to the first token, the median of the rounds."""
        found = self.rounds.get(name)
        return statistics.median(one.first for one in found) if found else None

    def ratio(self, name: str, other: str) -> float | None:
        """Of speeds, the median over the rounds; None where one of the two has none."""
        ours, theirs = self.rounds.get(name), self.rounds.get(other)
        if not ours or not theirs:
            return None
        return median_ratio([one.speed for one in ours], [one.speed for one in theirs])


def compare(sides: Sequence[Side], work: Work, rounds: int, refused: Mapping[str, str]) -> Compared:
    """One warm-up round and `rounds` counted ones. A server that fails once is out, with its words."""
    found = Compared(failed=dict(refused))
    left = list(sides)
    for number in range(rounds + 1):
        for side in left[number % max(1, len(left)) :] + left[: number % max(1, len(left))]:
            name, label = side.server.name, f"round {number} of {rounds}" if number else "warm-up"
            try:
                with telling(f"{work.name}, {label}, {name}"), awake(side):
                    one = Round.of(load.answers(side, work.chats(work.count if number else work.warm_up), work.at_once))
            except Failed as error:
                found.failed[name] = str(error)
                found.rounds.pop(name, None)
                left.remove(side)
                continue
            say(f"  {one.speed:.1f} tokens/s, first token {one.first:.2f} s, {one.tokens} tokens")
            if number:
                found.rounds.setdefault(name, []).append(one)
    return found
