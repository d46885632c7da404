"""The settings that the peers offer, one server at a time: which is its best for which work."""

from __future__ import annotations

from bench.engine.bench import ALONE, LONG, TOGETHER, Bench, Found
from bench.engine.rounds import compare
from bench.engine.servers import PEERS

# Whatever rounds the rows have.
ROUNDS = 2


def trial(bench: Bench) -> Found:
    """Two counted rounds of each work for each setting: which is ahead may hang on a minute of the machine."""
    speeds: dict[str, dict[str, float]] = {work.name: {} for work in (TOGETHER, ALONE, LONG)}
    failed: dict[str, str] = {}
    for server in (server for peer in bench.peers for server in PEERS[peer]):
        sides = bench.fleet.sides([server])
        for work in (TOGETHER, ALONE, LONG):
            found = compare(sides, work, ROUNDS, bench.fleet.refused)
            failed |= found.failed
            if (speed := found.speed(server.name)) is not None:
                speeds[work.name][server.name] = speed
    return Found([], {"speeds": speeds, "failed": failed})
