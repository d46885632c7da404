"""Row 11: what the scheduler and the block pool take of a step, over 100,000 sequences, with a runner that computes nothing."""

from __future__ import annotations

import random
import statistics
import time

from bench.engine.bench import Bench, Found
from bench.engine.checks import Check
from bench.engine.progress import say
from jitney_runtime.engine.block_pool import BlockPool
from jitney_runtime.engine.engine import Engine
from jitney_runtime.engine.model_runner import ScheduledBatch
from jitney_runtime.engine.pace import Pace
from jitney_runtime.engine.scheduler import Scheduler
from jitney_runtime.engine.sequence import SamplingParams, Sequence

SEQUENCES, ROWS, PROMPT, TOKENS, WAITING = 100_000, 16, 50, 64, 16
BLOCK, WINDOW = 16, 2048
# A tenth of all steps may take so much longer than another before it is not flat: the machine's mood.
FLAT = 1.25


class Nothing:
    """A runner that answers at once, and knows how long that took."""

    vocabulary = 50_000

    def __init__(self) -> None:
        self.seconds = 0.0

    def run(self, batch: ScheduledBatch) -> list[int]:
        begun = time.perf_counter()
        answer = [7] * len(batch.sampled)
        self.seconds = time.perf_counter() - begun
        return answer


def policy(bench: Bench) -> Found:
    """Row 11."""
    seconds = _steps(SEQUENCES // 10 if bench.quick else SEQUENCES)
    tenth = len(seconds) // 10
    tenths = [statistics.fmean(seconds[place * tenth : (place + 1) * tenth]) for place in range(10)]
    mean = 1e6 * statistics.fmean(seconds)
    note = f"{len(seconds)} steps; by tenths {', '.join(f'{1e6 * one:.0f}' for one in tenths)} µs"
    return Found(
        [
            Check("11", "policy time of a step at batch 16, 100,000 sequences", mean, "µs", must=150.0, most=True, note=note),
            Check("11", "the same: the last tenth of the steps, times the first", tenths[-1] / tenths[0], must=FLAT, most=True),
        ]
    )


def _steps(count: int) -> list[float]:
    """Seconds of each step without the runner's. A sequence comes when another has ended, so that some always wait."""
    runner = Nothing()
    engine = Engine(Scheduler(BlockPool(ROWS * WINDOW // BLOCK, BLOCK), ROWS, 512, WINDOW, frozenset(), Pace()), runner)
    dice, params = random.Random(5), SamplingParams(max_tokens=TOKENS, ignore_eos=True)
    added, seconds = 0, []

    def add() -> None:
        nonlocal added
        engine.add(Sequence(f"policy-{added}", [dice.randrange(50_000) for _ in range(PROMPT)], params))
        added += 1
        if added % (count // 10) == 0:
            say(f"  {added} of {count} sequences")

    for _ in range(ROWS + WAITING):
        add()
    while engine.has_work:
        report = engine.step()
        if report.rows == ROWS:
            seconds.append(report.seconds - runner.seconds)
        for output in report.outputs:
            if output.finish_reason and added < count:
                add()
    return seconds
