"""Row 4: what a system prompt that all chats share saves, against ours without the reuse of prefixes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.engine import load, work
from bench.engine.bench import Bench, Found
from bench.engine.checks import Check, median_ratio
from bench.engine.fleet import ROWS, awake
from bench.engine.load import Failed, Round, Side
from bench.engine.progress import say, telling
from bench.engine.servers import NONE, UNSHARED

PROMPT = 1000


def shared(bench: Bench) -> Found:
    """Row 4. The prompt has been seen once before: that is what a system prompt is."""
    sides = bench.fleet.sides([NONE, UNSHARED])
    rounds: list[list[Round]] = [[], []]
    words = "; ".join(bench.fleet.refused[server.name] for server in (NONE, UNSHARED) if server.name in bench.fleet.refused)
    try:
        for number in range(bench.rounds + 1 if len(sides) == len(rounds) else 0):
            for side, kept in zip(sides, rounds, strict=True):
                one = _round(side, number)
                if number:
                    kept.append(one)
    except Failed as error:
        words = str(error)
    if words:
        return Found(_checks(None, None, words))
    ours, without = rounds
    first = median_ratio([one.first for one in without], [one.first for one in ours])
    speed = median_ratio([one.speed for one in ours], [one.speed for one in without])
    return Found(_checks(first, speed, f"{_told(ours)}, and without {_told(without)}"))


def _round(side: Side, number: int) -> Round:
    system = work.filling(PROMPT)
    with telling(f"one system prompt for all, {f'round {number}' if number else 'warm-up'}, {side.server.name}"), awake(side):
        load.answers(side, [work.shared(system, 0, tokens=1)], 1)
        one = Round.of(load.answers(side, [work.shared(system, chat) for chat in range(ROWS)], ROWS))
    say(f"  {one.speed:.1f} tokens/s, first token {one.first:.2f} s")
    return one


def _told(rounds: Sequence[Round]) -> str:
    first, speed = (statistics.median(getattr(one, what) for one in rounds) for what in ("first", "speed"))
    return f"first token {first:.2f} s, {speed:.0f} tokens/s"


def _checks(first: float | None, speed: float | None, note: str) -> list[Check]:
    what = "one system prompt of 1,000 tokens for all 16, asked once before"
    return [
        Check("4", f"{what}: time to first token, times better than without the prefix cache", first, must=10.0, note=note),
        Check("4", f"{what}: throughput / without the prefix cache", speed, must=3.0),
    ]
