"""The border between policy and hardware: one frozen message in, one token per sampled row out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from jitney_runtime.engine.sequence import SamplingParams


@dataclass(frozen=True)
class ScheduledRow:
    """Compute `tokens` of one sequence at positions `start`, `start + 1`, ...; its keys and values go to `blocks`.

    `sample` is true when these tokens are the sequence's last ones, so that the next token can be drawn at `position`; `of_prompt` when
    they are the prompt's, even if it is one only.
    """

    sequence_id: str
    tokens: tuple[int, ...]
    start: int
    blocks: tuple[int, ...]
    sample: bool
    params: SamplingParams
    seed: int
    of_prompt: bool = False

    @property
    def end(self) -> int:
        """The number of tokens of the sequence that have keys and values after this step."""
        return self.start + len(self.tokens)


@dataclass(frozen=True)
class ScheduledBatch:
    """The rows of one step, in the order in which the runner's answer lists their tokens."""

    rows: tuple[ScheduledRow, ...]

    @property
    def token_count(self) -> int:
        return sum(len(row.tokens) for row in self.rows)

    @property
    def sampled(self) -> tuple[ScheduledRow, ...]:
        return tuple(row for row in self.rows if row.sample)


class ModelRunner(Protocol):
    """Runs on the engine's thread only."""

    @property
    def vocabulary(self) -> int:
        """Token ids go from 0 to `vocabulary` - 1. The one thing that any thread may read."""
        ...

    def run(self, batch: ScheduledBatch) -> list[int]:
        """One step of the model; one token id per row of `batch.sampled`, in that order."""
        ...
