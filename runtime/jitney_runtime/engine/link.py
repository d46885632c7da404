"""What crosses the border between those who ask and the engine: orders one way, news the other. Plain data, because a process may lie in
between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from jitney_runtime.engine.engine import EngineStats
from jitney_runtime.engine.sequence import SamplingParams, TokenOutput


@dataclass(frozen=True)
class Limits:
    """Of an engine: tokens of a sequence, rows of a batch, and the ids that there are."""

    max_model_len: int
    max_num_seqs: int
    vocabulary: int


@dataclass(frozen=True)
class Add:
    """`came`: when the request did, in seconds of perf_counter, which all processes of a machine share."""

    sequence_id: str
    prompt: list[int]
    params: SamplingParams
    seed: int
    came: float


@dataclass(frozen=True)
class Abort:
    sequence_id: str


Order = Add | Abort


@dataclass(frozen=True)
class News:
    """Of one step: its rows and tokens, how many seconds it took, and how long each of those waited that it was the first one of."""

    outputs: list[TokenOutput]
    rows: int
    tokens: int
    seconds: float
    queued: list[float]
    stats: EngineStats


class Link(Protocol):
    """The end of those who ask; event loop only, but for `limits`."""

    @property
    def limits(self) -> Limits: ...

    def start(self, tell: Callable[[News], None], dead: Callable[[], None]) -> None:
        """`tell` and `dead` are called on the event loop that runs now. `dead` once, when there will be no more news."""
        ...

    def send(self, order: Order) -> None: ...

    def stop(self) -> None: ...
