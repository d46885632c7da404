"""What every row is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.engine.checks import Check
from bench.engine.fleet import Fleet
from bench.engine.rounds import Work
from bench.engine.servers import PEERS, Server
from bench.engine.work import long, short

# The work of rows 1, 2 and 3, which the trial of settings does too.
TOGETHER = Work("16 chats", lambda count: [short(number) for number in range(count)], 64, 16, 16)
ALONE = Work("one chat", lambda count: [short(number) for number in range(count)], 4, 1, 1)
LONG = Work("16 long prompts", lambda count: [long(number, 1000) for number in range(count)], 16, 16, 4)


@dataclass(frozen=True)
class Found:
    """`figures` are what tables and charts show, as JSON has it."""

    checks: list[Check]
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass
class Bench:
    """`peers` are keys of PEERS; `speeds` what the trial of settings found: work -> server -> tokens per second."""

    fleet: Fleet
    scratch: Path
    peers: tuple[str, ...]
    rounds: int
    quick: bool = False
    speeds: dict[str, dict[str, float]] = field(default_factory=dict)

    def best(self, work: Work) -> list[Server]:
        """Of each peer the setting that was fastest at this work; the first one where none was tried."""
        found = self.speeds.get(work.name, {})
        return [max(PEERS[peer], key=lambda server: found.get(server.name, 0.0)) for peer in self.peers]

    def ahead(self, work: Work) -> list[Server]:
        """The best without those that were less than half as fast as the fastest: their rounds would take most of the time."""
        found, best = self.speeds.get(work.name, {}), self.best(work)
        most = max(found.values(), default=0.0)
        return [server for server in best if found.get(server.name, most) >= most / 2]
