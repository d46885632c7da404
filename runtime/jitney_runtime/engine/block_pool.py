"""Blocks of KV memory: who owns them, which are free, and which of the free ones still hold the beginning of some text.

A full block is known by what it holds: its tokens and all that came before them. A sequence that begins with the same tokens uses the same
blocks, and computes none of them again. A block that nobody uses any more keeps what it holds until the pool needs it, the one that was
used longest ago first. Nothing is ever written into a full block, so whoever shares one needs no copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from jitney_runtime.engine.sequence import Sequence


class NoFreeBlocks(Exception):
    """The pool cannot grow this sequence now. The scheduler asks before, and preempts somebody."""


class BlockPool:
    """`count` blocks of `block_size` tokens, with ids from 0 to count - 1. Without `sharing` every sequence computes all of its own."""

    def __init__(self, count: int, block_size: int, sharing: bool = True) -> None:
        if count < 1 or block_size < 1:
            raise ValueError(f"a pool needs at least one block of one token, not {count} of {block_size}")
        self.count = count
        self.block_size = block_size
        self._sharing = sharing
        self._users = [0] * count
        # Free blocks that hold nothing of use, and those that do, the one used longest ago first.
        self._blank = list(range(count - 1, -1, -1))
        self._kept: dict[int, None] = {}
        # A text of whole blocks is a number: that of its beginning and the tokens of its last block lead to it, and to the block that holds
        # these. Numbers are never used twice, so what follows a text whose block was given away is never found again.
        self._texts: dict[tuple[int, tuple[int, ...]], tuple[int, int]] = {}
        self._names: dict[int, tuple[int, tuple[int, ...]]] = {}
        self._last_text = 0

    @property
    def free(self) -> int:
        return len(self._blank) + len(self._kept)

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
            block = self._take()
            self._users[block] = 1
            sequence.blocks.append(block)

    def _take(self) -> int:
        if self._blank:
            return self._blank.pop()
        block = next(iter(self._kept))
        del self._kept[block]
        del self._texts[self._names.pop(block)]
        return block

    def share(self, sequence: Sequence) -> None:
        """Give a sequence that has no blocks yet those that hold its beginning, and count them as computed.

        All but one token at most: the last one's logits are what the sequence is there for.
        """
        size = self.block_size
        for first in range(0, (len(sequence.tokens) - 1) // size * size, size):
            found = self._texts.get((sequence.text, tuple(sequence.tokens[first : first + size])))
            if found is None:
                return
            sequence.text, block = found
            self._kept.pop(block, None)
            self._users[block] += 1
            sequence.blocks.append(block)
            sequence.computed += size

    def keep(self, sequence: Sequence, before: int) -> None:
        """Remember the blocks that became full since `before` tokens were computed."""
        if not self._sharing:
            return
        size = self.block_size
        for place in range(before // size, sequence.computed // size):
            name = (sequence.text, tuple(sequence.tokens[place * size : (place + 1) * size]))
            if name not in self._texts:
                self._last_text += 1
                self._texts[name] = (self._last_text, sequence.blocks[place])
                self._names[sequence.blocks[place]] = name
            # Where somebody else's block holds the same already, this one is forgotten with its owner.
            sequence.text = self._texts[name][0]

    def release(self, sequence: Sequence) -> None:
        """The end of a text goes to the free blocks before its beginning, and is given away before it."""
        for block in reversed(sequence.blocks):
            self._users[block] -= 1
            if self._users[block] == 0:
                if block in self._names:
                    self._kept[block] = None
                else:
                    self._blank.append(block)
        sequence.blocks.clear()
        sequence.text = 0

    def check_integrity(self, owners: Iterable[Sequence]) -> None:
        """Every block free once, or owned by as many as it counts; RuntimeError otherwise. Run when the engine goes idle."""
        owned = Counter(block for sequence in owners for block in sequence.blocks)
        if sorted([*self._blank, *self._kept, *owned]) != list(range(self.count)):
            raise RuntimeError(f"block pool corrupt: {self.free} free and {len(owned)} owned of {self.count}")
        if self._users != [owned.get(block, 0) for block in range(self.count)]:
            raise RuntimeError("block pool corrupt: a block counts other users than it has")
        if self._kept.keys() - self._names.keys() or {self._texts[name][1]: name for name in self._texts} != self._names:
            raise RuntimeError("block pool corrupt: a block that is known for a text that it does not hold")
