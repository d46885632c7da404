"""Steps as CUDA graphs: recorded once per number of tokens, afterwards one launch instead of a thousand.

In a recorded step every token attends for itself over what its sequence holds up to it, whether it decodes or belongs to a prompt: one
kernel does for both, and all that changes from step to step are numbers in memory. A step of fewer tokens than a graph has is filled up
with tokens that store into a block which is nobody's and whose answers nobody reads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import torch

from jitney_runtime.engine.model_runner import ScheduledBatch
from jitney_runtime.torch_backend.attention import WIDEST, StepPlan
from jitney_runtime.torch_backend.sampler import sample

logger = logging.getLogger(__name__)

# Places that the tokens of a step look at together. Beyond, prompts are worth a kernel that reads them once for many tokens.
_LOOKED_AT = 2**18
# In front of the numbers that each token has: how many blocks are in a row of the tables.
_HEAD, _NUMBERS = 1, 5


def widths(rows: int) -> list[int]:
    """Numbers of tokens that get a graph: powers of two and what lies halfway between large ones, and full batches of `rows`."""
    powers = [1 << power for power in range(WIDEST.bit_length())]
    return sorted({*powers, *(power * 3 // 2 for power in powers if 16 <= power < WIDEST), min(rows, WIDEST)})


def numbers(batch: ScheduledBatch, width: int, kept: int, block_size: int, spare: int) -> list[int]:
    """What a graph of `width` tokens reads: blocks in a row of the tables; ids, positions, slots, lengths and owners of all tokens; the
    `kept` places that are sampled; a table for each row, and one for the tokens that fill up, of the block `spare`."""
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    owners: list[int] = []
    sampled: list[int] = []
    for number, row in enumerate(batch.rows):
        ids += row.tokens
        positions += range(row.start, row.end)
        slots += [row.blocks[position // block_size] * block_size + position % block_size for position in range(row.start, row.end)]
        owners += [number] * len(row.tokens)
        if row.sample:
            sampled.append(len(ids) - 1)
    tables = [row.blocks[: -(-row.end // block_size)] for row in batch.rows]
    longest, empty = max(map(len, tables)), width - len(ids)
    return [
        longest,
        *ids,
        *[0] * empty,
        *positions,
        *[0] * empty,
        *slots,
        *[spare * block_size] * empty,
        *(position + 1 for position in positions),
        *[1] * empty,
        *owners,
        *[len(tables)] * empty,
        *sampled,
        *[0] * (kept - len(sampled)),
        *chain.from_iterable(table + table[:1] * (longest - len(table)) for table in tables),
        *[spare] * longest,
    ]


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    logits: torch.Tensor
    best: torch.Tensor


class StepGraphs:
    """All graphs of one model. Recorded where the model is loaded, run on the engine's."""

    def __init__(
        self, logits: Callable[[StepPlan], torch.Tensor], rows: int, longest: int, spare: int, block_size: int, device: torch.device
    ) -> None:
        """`logits` of what a plan samples; `rows` of a step, `longest` blocks of a sequence, at most; `spare`: a block that is nobody's."""
        self._logits, self._rows, self._longest, self._spare, self._block_size = logits, rows, longest, spare, block_size
        self._widths = widths(rows)
        room = _HEAD + _NUMBERS * WIDEST + rows + (rows + 1) * longest
        self._numbers = torch.zeros(room, dtype=torch.long, device=device)
        # Free again when a step has ended, which each does before the next begins.
        self._host = torch.zeros(room, dtype=torch.long).pin_memory()
        self._graphs: dict[int, _Graph] = {}

    @property
    def recorded(self) -> bool:
        return bool(self._graphs)

    def takes(self, batch: ScheduledBatch) -> bool:
        if not self._graphs or len(batch.rows) > self._rows or batch.token_count > WIDEST:
            return False
        return sum(len(row.tokens) * row.end for row in batch.rows if len(row.tokens) > 1) <= _LOOKED_AT

    def run(self, batch: ScheduledBatch) -> list[int] | None:
        """A token for each row that is sampled; None, and the step perhaps still under way, where there is none."""
        count = batch.token_count
        width = next(width for width in self._widths if width >= count)
        found = numbers(batch, width, self._kept(width), self._block_size, self._spare)
        self._host[: len(found)] = torch.tensor(found)
        self._numbers[: len(found)].copy_(self._host[: len(found)], non_blocking=True)
        graph, rows = self._graphs[width], batch.sampled
        graph.graph.replay()
        if not rows:
            return None
        if all(row.params.greedy for row in rows):
            best: list[int] = graph.best[: len(rows)].tolist()
            return best
        return sample(graph.logits[: len(rows)], rows)

    def _kept(self, width: int) -> int:
        return min(width, self._rows)

    def record(self) -> None:
        """Record all widths, the widest first, whose memory serves the others. A model that cannot be recorded is run as it is."""
        started = time.perf_counter()
        pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        try:
            for width in reversed(self._widths):
                self._graphs[width] = self._recorded(width, pool, stream)
        except RuntimeError as error:
            self._graphs.clear()
            torch.cuda.synchronize()
            logger.warning("steps are not recorded as CUDA graphs for this model: %s", str(error).partition("\n")[0])
            return
        logger.info("recorded %d CUDA graphs of steps in %.1f s", len(self._graphs), time.perf_counter() - started)

    def _recorded(self, width: int, pool: Any, stream: torch.cuda.Stream) -> _Graph:
        plan = self._plan(width)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            # What is made when it is first needed is made outside of the recording.
            self._logits(plan)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use CUDA meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            logits = self._logits(plan)
            best = logits.argmax(dim=-1)
        return _Graph(graph, logits, best)

    def _plan(self, width: int) -> StepPlan:
        """Of `width` tokens, whose numbers lie where those of each step will; for now all of them fill up."""
        sampled = _HEAD + _NUMBERS * width
        first = sampled + self._kept(width)
        ids, positions, slots, lengths, owners = self._numbers[_HEAD:sampled].view(_NUMBERS, width)
        self._numbers[:first] = 0
        self._numbers[:_HEAD] = 1
        slots.fill_(self._spare * self._block_size)
        lengths.fill_(1)
        self._numbers[first] = self._spare
        return StepPlan(
            ids=ids[None],
            sampled=self._numbers[sampled:first],
            slots=slots,
            fresh=None,
            positions=positions[None],
            decode_index=None,
            decode_tables=self._numbers[first:],
            decode_lengths=lengths,
            decode_width=self._numbers[:_HEAD],
            decode_owners=owners,
            prompts=(),
            places=width,
        )
