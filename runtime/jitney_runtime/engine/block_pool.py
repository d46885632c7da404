"""Blocks of KV memory: which are free, and the rule that every block is either free or owned by one sequence."""

from __future__ import annotations

from collections.abc import Iterable

from jitney_runtime.engine.sequence import Sequence


class NoFreeBlocks(Exception):
    """The pool cannot grow this sequence now. The scheduler asks before, and preempts somebody."""


class BlockPool:
    """`count` blocks of `block_size` tokens each. Block ids run from 0 to count - 1."""

    def __init__(self, count: int, block_size: int) -> None:
        if count < 1 or block_size < 1:
            raise ValueError(f"a pool needs at least one block of one token, not {count} of {block_size}")
        self.count = count
        self.block_size = block_size
        self._free = list(range(count - 1, -1, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def usage(self) -> float:
        """Share of the blocks in use, 0 to 1."""
        return 1 - self.free / self.count

    def blocks_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def missing(self, sequence: Sequence, tokens: int) -> int:
        """How many more blocks the sequence needs to hold its first `tokens` tokens."""
        return max(0, self.blocks_for(tokens) - len(sequence.blocks))

    def can_grow(self, sequence: Sequence, tokens: int) -> bool:
        return self.missing(sequence, tokens) <= self.free

    def grow(self, sequence: Sequence, tokens: int) -> None:
        """Give the sequence the blocks for its first `tokens` tokens; NoFreeBlocks leaves it as it was."""
        missing = self.missing(sequence, tokens)
        if missing > self.free:
            raise NoFreeBlocks(f"{missing} blocks wanted, {self.free} free")
        for _ in range(missing):
            sequence.blocks.append(self._free.pop())

    def release(self, sequence: Sequence) -> None:
        self._free.extend(reversed(sequence.blocks))
        sequence.blocks.clear()

    def check_integrity(self, owners: Iterable[Sequence]) -> None:
        """Every block exactly once, free or owned; RuntimeError otherwise. Run when the engine goes idle."""
        owned = [block for sequence in owners for block in sequence.blocks]
        if sorted(self._free + owned) != list(range(self.count)):
            raise RuntimeError(f"block pool corrupt: {len(self._free)} free and {len(owned)} owned of {self.count}")
