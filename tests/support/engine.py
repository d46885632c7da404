"""Small shipped-shape parts for engine tests: a runner that needs no model, and builders."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from jitney_runtime.engine.block_pool import BlockPool
from jitney_runtime.engine.engine import Engine
from jitney_runtime.engine.model_runner import ScheduledBatch, ScheduledRow
from jitney_runtime.engine.scheduler import Scheduler
from jitney_runtime.engine.sequence import SamplingParams, Sequence

EOS = 0


class FakeRunner:
    """Keeps what every block holds, as a real cache does, and draws the next token from the whole context it reads back.

    A wrong block, position or stale entry therefore changes the tokens, just as with a model. Tokens under `highest` are drawn, or those of
    `spoken` one after the other. Optionally each step waits for `gate`.
    """

    def __init__(self, block_size: int, vocabulary: int = 997) -> None:
        self.block_size = block_size
        self.vocabulary = self.highest = vocabulary
        self.spoken: list[int] = []
        self._prompts: dict[str, int] = {}
        self.slots: dict[int, int] = {}
        self.batches: list[ScheduledBatch] = []
        self.gate: threading.Semaphore | None = None
        self.fail_when: Callable[[ScheduledBatch], bool] = lambda batch: False

    def run(self, batch: ScheduledBatch) -> list[int]:
        if self.gate:
            self.gate.acquire(timeout=20)
        self.batches.append(batch)
        if self.fail_when(batch):
            raise RuntimeError("the fake runner was told to fail")
        return [token for row in batch.rows if (token := self._row(row)) is not None]

    def _row(self, row: ScheduledRow) -> int | None:
        for offset, token in enumerate(row.tokens):
            self.slots[self._slot(row, row.start + offset)] = token
        context = [self.slots[self._slot(row, position)] for position in range(row.end)]
        if not row.sample:
            return None
        answered = row.end - self._prompts.setdefault(row.sequence_id, row.end)
        return self.spoken[answered % len(self.spoken)] if self.spoken else next_token(context, self.highest)

    def _slot(self, row: ScheduledRow, position: int) -> int:
        return row.blocks[position // self.block_size] * self.block_size + position % self.block_size


def next_token(context: list[int], vocabulary: int = 997) -> int:
    """A function of the whole context, never EOS."""
    return 1 + sum((place + 1) * token for place, token in enumerate(context)) % (vocabulary - 1)


def solo(prompt: list[int], count: int) -> list[int]:
    """What a prompt's answer is when nobody else is there."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


def make_engine(
    blocks: int = 64, block_size: int = 4, max_num_seqs: int = 4, token_budget: int = 16, max_model_len: int = 64
) -> tuple[Engine, FakeRunner]:
    runner = FakeRunner(block_size)
    scheduler = Scheduler(BlockPool(blocks, block_size), max_num_seqs, token_budget, max_model_len, frozenset({EOS}))
    return Engine(scheduler, runner), runner


def make_sequence(name: str, prompt: list[int], max_tokens: int = 8, **params: object) -> Sequence:
    return Sequence(name, list(prompt), SamplingParams(max_tokens=max_tokens, **params))  # type: ignore[arg-type]


def assert_whatever_comes(engine: Engine, choose: random.Random, prompts: dict[str, list[int]], aborts: int) -> None:
    """Random arrivals and lengths up to a window of 64, `aborts` of them given up on the way: each answers as alone, the pool is right at
    every step."""
    lengths = {name: choose.randint(1, 64 - len(prompt)) for name, prompt in prompts.items()}
    aborted = set(choose.sample(sorted(prompts), aborts))
    waiting = list(prompts)
    answers: dict[str, list[int | None]] = {name: [] for name in prompts}
    while waiting or engine.has_work:
        for _ in range(choose.randint(0, 2)):
            if waiting:
                name = waiting.pop()
                engine.add(make_sequence(name, prompts[name], lengths[name]))
        for output in engine.step().outputs:
            answers[output.sequence_id].append(output.token)
        engine.scheduler.check_integrity()
        for name in aborted:
            if len(answers[name]) > 3:
                engine.abort(name)
    for name, tokens in answers.items():
        expected = solo(prompts[name], lengths[name])
        assert tokens == (expected[: len(tokens)] if name in aborted else expected)


def run_to_end(engine: Engine, limit: int = 10_000) -> dict[str, list[int]]:
    """Step until idle; every sequence's tokens."""
    answers: dict[str, list[int]] = {}
    for _ in range(limit):
        if not engine.has_work:
            return answers
        for output in engine.step().outputs:
            if output.token is not None:
                answers.setdefault(output.sequence_id, []).append(output.token)
    raise AssertionError(f"the engine still had work after {limit} steps: {engine.stats()}")
