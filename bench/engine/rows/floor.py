"""Row 7: a decode step against its linear layers alone."""

from __future__ import annotations

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
                floors, steps = _measured(worker, setting)
        except Refused as error:
            checks.append(Check("7", f"{what} {CONTEXTS[0]}", None, must=1.6 if judged else None, most=True, note=str(error)))
            continue
        low = floors["16"]
        say(f"  {setting}: floor {1000 * low:.1f} ms, steps {', '.join(f'{1000 * one:.1f} ms at {at}' for at, one in steps.items())}")
        figures[setting] = {"floor": floors, "step": {str(at): one for at, one in steps.items()}}
        for context, seconds in steps.items():
            must, aim = (1.6, 1.3) if judged and context == CONTEXTS[0] else (None, None)
            note = f"{1000 * seconds:.1f} and {1000 * low:.1f} ms"
            checks.append(Check("7", f"{what} {context:,}", seconds / low, must=must, aim=aim, most=True, note=note))
    return Found(checks, figures)


def _measured(worker: Worker, setting: str) -> tuple[dict[str, float], dict[int, float]]:
    """Seconds of all linear layers by the number of rows, and of a step by its context. The floor is taken on both sides of what is
    compared with it, because the machine's mood changes."""
    with telling(f"the floor and the steps of {setting}"):
        lows, steps = [worker.ask("floor", rows=ROWS)], {}
        for context in CONTEXTS:
            steps[context] = worker.ask("decode", rows=ROWS, context=context)
            lows.append(worker.ask("floor", rows=ROWS))
        return {"1": worker.ask("floor", rows=1), "16": min(lows), "64": worker.ask("floor", rows=64)}, steps
