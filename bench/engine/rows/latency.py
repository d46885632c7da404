"""Rows 5 and 6: what a newcomer waits while others decode, and what they notice of it."""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp

from bench.engine import load, work
from bench.engine.bench import Bench, Found
from bench.engine.checks import Check
from bench.engine.fleet import ROWS, awake
from bench.engine.load import Failed, Heard, Side
from bench.engine.progress import say, telling
from bench.engine.servers import NONE

T = TypeVar("T")

# Those that decode, and how many new chats come while they do; in so many crowds, because contexts grow.
OTHERS, NEWCOMERS, CROWDS = 15, 100, 4
# The long prompt, and a window for it and its answer.
PROMPT, WINDOW = 6000, 8192
# Seconds of undisturbed decoding that are looked at, and after the newcomer's first token.
BEFORE, AFTER = 2.0, 1.0
# Seconds until all must decode.
PATIENCE = 120.0


@dataclass
class Crowd:
    """Chats that decode; what came of each so far."""

    came: list[list[tuple[float, bytes]]]
    asked: float

    def heard(self) -> list[Heard]:
        return [Heard(self.asked, tuple(one)) for one in self.came]

    def gaps(self, begin: float, end: float) -> list[float]:
        """Of all streams, those that lie in this time, or reach into it."""
        found = []
        for heard in self.heard():
            found += [after - before for before, after in itertools.pairwise(heard.pieces) if after > begin and before < end]
        return found


@asynccontextmanager
async def _crowd(client: aiohttp.ClientSession, side: Side, tokens: int) -> AsyncIterator[Crowd]:
    """OTHERS chats, all decoding; they are left at the end."""
    crowd = Crowd([[] for _ in range(OTHERS)], time.perf_counter())
    tasks = [asyncio.create_task(load.ask(client, side, work.counting(number, tokens), came)) for number, came in enumerate(crowd.came)]
    try:
        while any(len(one) < 4 for one in crowd.came):
            if time.perf_counter() - crowd.asked > PATIENCE or any(task.done() for task in tasks):
                raise Failed(f"{side.server.name}: {OTHERS} chats do not decode together")
            await asyncio.sleep(0.05)
        yield crowd
        if any(task.done() for task in tasks):
            raise Failed(f"{side.server.name}: one of {OTHERS} chats ended too early")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _undisturbed(crowd: Crowd) -> float:
    """Seconds of a step: the median of a while in which nobody comes."""
    await asyncio.sleep(BEFORE)
    end = time.perf_counter()
    return statistics.median(crowd.gaps(end - BEFORE, end))


def newcomers(bench: Bench) -> Found:
    """Row 5. The bound is two of the running batch's steps and what the newcomer's prompt takes alone, both of the same round; the round
    whose ratio is in the middle is told."""

    async def measure(side: Side) -> list[tuple[float, float, float]]:
        rounds = []
        async with load.client() as client:
            for _ in range(bench.rounds):
                alone = [(await load.ask(client, side, work.short(number, 1))).first for number in range(24)][4:]
                steps, firsts = [], []
                for _ in range(CROWDS):
                    async with _crowd(client, side, 1900) as crowd:
                        steps.append(await _undisturbed(crowd))
                        firsts += [(await load.ask(client, side, work.short(number, 1))).first for number in range(NEWCOMERS // CROWDS)]
                        # Their contexts have grown, and with them their steps.
                        steps.append(await _undisturbed(crowd))
                step = statistics.fmean(steps)
                # The nearest rank: of 100 one may be later.
                p99 = sorted(firsts)[math.ceil(0.99 * len(firsts)) - 1]
                rounds.append((p99, step, statistics.median(alone)))
                words = ", ".join(f"{1000 * one:.1f}" for one in sorted(firsts)[-4:])
                say(f"  the latest {words} ms; 2 steps of {1000 * step:.1f} ms and {1000 * rounds[-1][2]:.1f} ms alone")
        return rounds

    found, words = _measured(bench, "100 new chats while 15 decode", 2048, measure)
    what = "time to first token of a new chat while 15 decode, p99"
    if found is None:
        return Found([Check("5", what, None, "ms", most=True, must=0.0, note=words)])
    p99, step, alone = sorted(found, key=lambda one: one[0] / (2 * one[1] + one[2]))[len(found) // 2]
    note = f"the bound is 2 steps of {1000 * step:.0f} ms and {1000 * alone:.0f} ms alone"
    return Found([Check("5", what, 1000 * p99, "ms", must=1000 * (2 * step + alone), most=True, note=note)])


def long_newcomer(bench: Bench) -> Found:
    """Row 6. The worst gap of all rounds; the ratio of first tokens is the median."""

    async def measure(side: Side) -> tuple[list[float], list[float], list[float]]:
        gaps, firsts, steps = [], [], []
        async with load.client() as client:
            await load.ask(client, side, work.long(0, PROMPT, 4))
            for number in range(bench.rounds):
                alone = (await load.ask(client, side, work.long(number, PROMPT, 4))).first
                async with _crowd(client, side, 1800) as crowd:
                    step = await _undisturbed(crowd)
                    late = await load.ask(client, side, work.long(number, PROMPT, 4))
                    await asyncio.sleep(AFTER)
                    gaps.append(max(crowd.gaps(late.asked, late.asked + late.first + AFTER)) / step)
                firsts.append(late.first / alone)
                steps.append(step)
                say(f"  longest gap {gaps[-1]:.1f} steps of {1000 * step:.0f} ms; first token {late.first:.1f} s, alone {alone:.1f} s")
        return gaps, firsts, steps

    found, words = _measured(bench, "a prompt of 6,000 tokens while 15 decode", WINDOW, measure)
    gap = first = None
    if found is not None:
        gap, first = max(found[0]), statistics.median(found[1])
        words = f"steps of {1000 * statistics.median(found[2]):.0f} ms; gaps by round: {', '.join(f'{one:.1f}x' for one in found[0])}"
    return Found(
        [
            Check(
                "6",
                "a 6,000-token prompt while 15 decode: longest gap of any, times the median before",
                gap,
                must=3.0,
                most=True,
                note=words,
            ),
            Check("6", "the same: its own first token, times that alone", first, must=2.5, most=True, note=words if found is None else ""),
        ]
    )


def _measured(bench: Bench, what: str, window: int, measure: Callable[[Side], Coroutine[Any, Any, T]]) -> tuple[T | None, str]:
    """The figures, or None and why there are none."""
    for side in bench.fleet.sides([NONE], ROWS, window):
        try:
            with telling(what), awake(side):
                return asyncio.run(measure(side)), ""
        except (Failed, aiohttp.ClientError, TimeoutError) as error:
            return None, str(error)
    return None, bench.fleet.refused.get(NONE.name, "")
