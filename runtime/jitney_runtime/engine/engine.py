"""One step: schedule, run, update. A step that fails takes its own rows with it and nobody else."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

from jitney_runtime.engine.model_runner import ModelRunner
from jitney_runtime.engine.scheduler import Scheduler
from jitney_runtime.engine.sequence import FinishReason, Sequence, TokenOutput

logger = logging.getLogger(__name__)

# A runner that fails this many steps in a row will not recover: the loop ends and /livez says so.
FATAL_FAILURES = 3


@dataclass(frozen=True)
class StepReport:
    """What one step did: its new tokens, the sequences computed from their first token on, rows, tokens computed and seconds taken."""

    outputs: list[TokenOutput]
    begun: list[str]
    rows: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class EngineStats:
    """A look at the engine between two steps. `preemptions`, and `shared_tokens` of prompts that others had computed, count since start."""

    running: int
    waiting: int
    kv_cache_usage: float
    preemptions: int
    shared_tokens: int


class Engine:
    """Owned by one thread."""

    def __init__(self, scheduler: Scheduler, runner: ModelRunner) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self._failures = 0

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add(self, sequence: Sequence) -> None:
        self.scheduler.add(sequence)

    def abort(self, sequence_id: str) -> bool:
        return self.scheduler.abort(sequence_id)

    def step(self) -> StepReport:
        """Advance every scheduled row by one step. A failing runner ends those rows; FATAL_FAILURES in a row raise."""
        started = time.perf_counter()
        batch = self.scheduler.schedule()
        outputs: list[TokenOutput] = []
        done = False
        try:
            # A step without rows, such as follows an abort, tells nothing about the runner.
            if batch.rows:
                outputs = self.scheduler.update(batch, self.runner.run(batch))
                self._failures = 0
                done = True
        except Exception:
            self._failures += 1
            if self._failures >= FATAL_FAILURES:
                raise
            logger.exception("a step with %d rows failed; its requests are ended, the others go on", len(batch.rows))
            ended = [row.sequence_id for row in batch.rows if self.scheduler.abort(row.sequence_id)]
            outputs = [TokenOutput(sequence_id, None, FinishReason.ERROR) for sequence_id in ended]
        seconds = time.perf_counter() - started
        if done and self.scheduler.pace:
            decoding = sum(len(row.tokens) == 1 for row in batch.rows)
            self.scheduler.pace.observe(decoding, batch.token_count - decoding, seconds)
        return StepReport(outputs, self.scheduler.begun, len(batch.rows), batch.token_count, seconds)

    def check_integrity(self) -> None:
        """RuntimeError where the books of the KV memory are wrong. Takes longer the more of it there is."""
        self.scheduler.check_integrity()

    def stats(self) -> EngineStats:
        now = self.scheduler
        return EngineStats(len(now.running), len(now.waiting), now.pool.usage, now.preemptions, now.shared_tokens)
