"""What the charts show: throughput over concurrent chats, and the time of a step over the length of the context; every server."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from bench.engine import load, work
from bench.engine.bench import LONG, TOGETHER, Bench, Found
from bench.engine.fleet import ROWS, awake
from bench.engine.load import Chat, Failed, Heard, Round, Side
from bench.engine.progress import say, telling
from bench.engine.rows.throughput import OURS

CONCURRENT = (1, 2, 4, 8, 16, 32, 64)
CONTEXTS = (128, 512, 1024, 1800)
# Tokens of each answer in the second chart: enough that all decode together for a while after the last prompt.
TOKENS = 128


def throughput(bench: Bench) -> Found:
    """One wave of chats for each number; every server is started with room for all of them."""
    sides = bench.fleet.sides([*OURS, *bench.best(TOGETHER)], rows=CONCURRENT[-1], window=512)
    return _points(
        sides,
        "chats",
        CONCURRENT,
        lambda count: ([work.short(number) for number in range(count)], count),
        lambda heard: Round.of(heard).speed,
        bench.fleet.refused,
    )


def step_time(bench: Bench) -> Found:
    """Milliseconds of a step of 16."""
    sides = bench.fleet.sides([*OURS, *bench.best(LONG)])
    return _points(
        sides,
        "tokens of context",
        CONTEXTS,
        lambda length: ([work.long(number, length, TOKENS) for number in range(ROWS)], ROWS),
        step,
        bench.fleet.refused,
    )


def step(heard: list[Heard]) -> float | None:
    """Of answers that decode together: the time in which all do, over the tokens that one gets in it. None where they never do."""
    begin, end = max(one.pieces[0] for one in heard), min(one.pieces[-1] for one in heard)
    if end <= begin:
        return None
    # Pieces stand for tokens by each answer's own count: some servers send several at once.
    tokens = [sum(begin < at <= end for at in one.pieces) * one.tokens / len(one.pieces) for one in heard]
    return 1000 * (end - begin) / statistics.fmean(tokens)


def _points(
    sides: list[Side],
    what: str,
    places: tuple[int, ...],
    make: Callable[[int], tuple[list[Chat], int]],
    figure: Callable[[list[Heard]], float | None],
    refused: Mapping[str, str],
) -> Found:
    """Each server's figure at each place, in turns; a warm-up first. A server that fails once has no more points."""
    points: dict[str, dict[str, float]] = {}
    failed = dict(refused)
    left = list(sides)
    for number, place in enumerate((places[0], *places)):
        for side in list(left):
            chats, at_once = make(place)
            try:
                with telling(f"{place} {what}{'' if number else ', warm-up'}, {side.server.name}"), awake(side):
                    heard = load.answers(side, chats, at_once)
                found = figure(heard)
            except Failed as error:
                failed[side.server.name] = str(error)
                left.remove(side)
                continue
            say(f"  {'no figure' if found is None else f'{found:.1f}'}")
            if number and found is not None:
                points.setdefault(side.server.name, {})[str(place)] = found
    return Found([], {"points": points, "failed": failed})
