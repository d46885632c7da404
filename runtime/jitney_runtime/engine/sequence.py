"""A sequence: one request's token ids, how far they are computed, and the blocks that hold their keys and values.

There is no prefill phase and no decode phase: `computed` catches up with `len(tokens)`, in one chunk or many.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class SequenceStatus(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(frozen=True)
class SamplingParams:
    """How one request's tokens are chosen. Temperature 0 is greedy; `top_k` 0 and `top_p` 1 keep every token.

    `seed` None draws from the engine's own seed; with a seed the answer repeats whoever else is in the batch. Where keys and values are
    bfloat16, one that is computed again after a preemption, or continues a cached one, may differ by its roundings.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    ignore_eos: bool = False

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(eq=False)
class Sequence:
    """Owned by the scheduler, on the engine's thread. `computed` tokens have their keys and values in `blocks`; `text` is the pool's number
    for those of them that fill whole blocks."""

    id: str
    tokens: list[int]
    params: SamplingParams
    prompt_length: int = field(init=False)
    seed: int = 0
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    text: int = 0
    status: SequenceStatus = SequenceStatus.WAITING
    preemptions: int = 0

    def __post_init__(self) -> None:
        self.prompt_length = len(self.tokens)

    @property
    def pending(self) -> int:
        """Tokens whose keys and values are not computed yet; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length


@dataclass(frozen=True)
class TokenOutput:
    """One new token of a sequence, and why it was the last one, if it was. An aborted or failed sequence ends without a token."""

    sequence_id: str
    token: int | None
    finish_reason: FinishReason | None = None
