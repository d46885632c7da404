"""Row 7: a decode step against its linear layers alone."""

from __future__ import annotations

import statistics
from typing import Any

from bench.engine.bench import Bench, Found
from bench.engine.checks import Check
from bench.engine.fleet import ROWS
from bench.engine.model import model_folder
from bench.engine.processes import Refused
from bench.engine.progress import say, telling
from bench.engine.servers import FLAGS
from bench.engine.worker import Worker, working

CONTEXTS = (110, 1000)


def floor(bench: Bench) -> Found:
    """Row 7, and the same told of the other settings."""
    checks: list[Check] = []
    figures: dict[str, Any] = {}
    for setting, flags in FLAGS.items():
        judged = setting == "none"
        what = f"decode step of 16, {setting}, times its linear layers alone, at context"
        try:
            with working(f"engine-{setting}", model_folder(), bench.scratch, "--max-model-len", "2048", *flags) as worker:
                floors, pairs = _measured(worker, setting, bench.rounds)
        except Refused as error:
            checks.append(Check("7", f"{what} {CONTEXTS[0]}", None, must=1.6 if judged else None, most=True, note=str(error)))
            continue
        steps = {str(context): statistics.median(step for step, _ in found) for context, found in pairs.items()}
        figures[setting] = {"floor": floors, "step": steps}
        for context, found in pairs.items():
            must, aim = (1.6, 1.3) if judged and context == CONTEXTS[0] else (None, None)
            step, low = (1000 * statistics.median(side) for side in zip(*found, strict=True))
            say(f"  {setting}: {', '.join(f'{1000 * one:.1f}/{1000 * other:.1f}' for one, other in found)} ms at {context}")
            ratio = statistics.median(one / other for one, other in found)
            checks.append(Check("7", f"{what} {context:,}", ratio, must=must, aim=aim, most=True, note=f"{step:.1f} and {low:.1f} ms"))
    return Found(checks, figures)


def _measured(worker: Worker, setting: str, rounds: int) -> tuple[dict[str, float], dict[int, list[tuple[float, float]]]]:
    """Seconds of all linear layers by the number of rows; and by context the pairs of a step and its floor. Each step is compared with the
    mean of what was measured right before and right after it, because the machine's mood changes; a first round warms up."""
    with telling(f"the floor and the steps of {setting}"):
        pairs: dict[int, list[tuple[float, float]]] = {context: [] for context in CONTEXTS}
        before = worker.ask("floor", rows=ROWS)
        for number in range(1 + 2 * rounds):
            for context, found in pairs.items():
                step = worker.ask("decode", rows=ROWS, context=context)
                after = worker.ask("floor", rows=ROWS)
                if number:
                    found.append((step, (before + after) / 2))
                before = after
                if number > rounds and context == CONTEXTS[0]:
                    # The judged one twice as often: the other's prompts are long.
                    break
        low = statistics.median(floor for found in pairs.values() for _, floor in found)
        return {"1": worker.ask("floor", rows=1), "16": low, "64": worker.ask("floor", rows=64)}, pairs
