"""Keys and values in blocks: one pair of tensors per attention layer, [blocks, block_size, kv_heads, dim]. On a CPU those of all layers
lie side by side in each block.

Where the C kernels attend, the memory of a block is theirs, and they keep the places of one head side by side in it (kernels.h).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod

import numpy as np
import torch

# Bytes. The first block begins at a line, and with it every row whose size is a multiple of it.
_CACHE_LINE = 64
# Bytes of a page where the system gives large ones (x86-64, most arm64).
_HUGE_PAGE = 2 * 1024**2
_PAGE = 4096
# Bytes that are there ahead of what is used: what is taken before the first step, what the thread keeps while nothing runs, and what the
# steps themselves keep.
_FIRST = 256 * 1024**2
_MARGIN = 1024**3
_SHORT = 16 * _HUGE_PAGE
# Linux 5.14.
_MADV_POPULATE_WRITE = 23
_libc = ctypes.CDLL(None)
# Seconds without a step before the thread goes on, and how often it looks.
_QUIET, _LOOK = 0.1, 0.05


@dataclass(frozen=True)
class LayerShape:
    """What one attention layer stores per token; values may have another width than keys."""

    kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def elements(self) -> int:
        return self.kv_heads * (self.key_dim + self.value_dim)


class LayerCache:
    """One layer's share of the pool: keys and values [blocks, block_size, kv_heads, dim], each with its own dim; blocks may lie apart.

    Slots are token places: block id x block_size + offset.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys = keys
        self.values = values

    def write(self, slots: torch.Tensor, fresh: torch.Tensor | None, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store [tokens, kv_heads, dim] at `slots` [tokens].

        The blocks `fresh` are emptied first: attention multiplies the places behind the last token by 0, and 0 x NaN, or what else their
        last owner left there, is NaN.
        """
        if fresh is not None:
            self.keys.index_fill_(0, fresh, 0)
            self.values.index_fill_(0, fresh, 0)
        size = self.keys.shape[1]
        places = (slots // size, slots % size)
        self.keys.index_put_(places, keys.to(self.keys.dtype))
        self.values.index_put_(places, values.to(self.values.dtype))

    def read(self, tables: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather the blocks of `tables` [rows, blocks]; two views [rows, kv_heads, blocks x block_size, dim]."""
        rows, width = tables.shape
        flat = tables.flatten()
        keys = self.keys.index_select(0, flat).view(rows, width * self.keys.shape[1], *self.keys.shape[2:])
        values = self.values.index_select(0, flat).view(rows, width * self.values.shape[1], *self.values.shape[2:])
        return keys.transpose(1, 2), values.transpose(1, 2)


class KVCache:
    """All layers' shares of a pool of `blocks` blocks: zeros, taken from the system as they are written."""

    def __init__(self, shapes: Sequence[LayerShape], blocks: int, block_size: int, dtype: torch.dtype, device: torch.device) -> None:
        sizes = [(block_size, shape.kv_heads, dim) for shape in shapes for dim in (shape.key_dim, shape.value_dim)]
        self._memory: torch.Tensor | None = None
        if device.type == "cpu":
            *starts, end = accumulate(map(prod, sizes), initial=0)
            self._memory = _lazy_zeros(blocks, end, dtype)
            # Not a view: of a single block it would have strides of its own.
            tensors = [
                self._memory[:, start:].as_strided((blocks, *size), (end, prod(size[1:]), size[2], 1))
                for start, size in zip(starts, sizes, strict=True)
            ]
        else:
            tensors = [torch.zeros((blocks, *size), dtype=dtype, device=device) for size in sizes]
        self.layers = [LayerCache(*pair) for pair in zip(tensors[::2], tensors[1::2], strict=True)]
        # Bytes of the memory that are some block's by now, and those that are there, the next ones' among them.
        self._used = self._there = 0
        # What the thread keeps ahead, 0 where the system is too old to let it.
        self._margin = _MARGIN
        self._filling: threading.Thread | None = None
        # When a step began, on the monotonic clock.
        self._last = 0.0
        # Whether there is nothing more to take.
        self.filled = self._memory is None

    def fill_ahead(self, highest: int) -> None:
        """Called with the highest block of every step before it runs, and with -1 before the first.

        A new page costs a virtual machine up to 5 ms, and rows that began together come to new ones together. So a thread takes them ahead
        while no step runs: beside one it would only take its core away. Where none is left a step takes one itself, as long as few are
        there. What was written was some step's: nobody has anything there yet.
        """
        assert self._memory is not None
        memory, size = self._memory.view(-1), self._memory.nbytes
        self._last = time.monotonic() if highest >= 0 else 0.0
        self._used = max(self._used, (highest + 1) * size // len(self._memory))
        # Looked at once: the thread, in the middle of a page, may be about to move it.
        self._there = there = max(self._there, self._used)
        if highest < 0:
            self._take(_FIRST)
        elif there < min(size, self._used + _SHORT):
            memory[there // memory.itemsize] = 0
            self._there = max(self._there, there + _HUGE_PAGE)
        if self._there < min(size, self._used + self._margin // 2) and not (self._filling and self._filling.is_alive()):
            self._filling = threading.Thread(target=self._fill, name="jitney-kv-memory", daemon=True)
            self._filling.start()
        self.filled = self._there >= size

    def _fill(self) -> None:
        """Thread of its own, for as long as it takes."""
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        self._take(self._margin)

    def _take(self, ahead: int) -> None:
        """Pages, until so many bytes are there, whenever no step runs. What is in them stays as it is, so a step that writes there is not
        in the way; a page that both take is taken once."""
        assert self._memory is not None
        first, size = self._memory.data_ptr(), self._memory.nbytes
        while (at := self._there) < min(size, self._used + ahead):
            if time.monotonic() - self._last < _QUIET:
                time.sleep(_LOOK)
                continue
            begin, end = (place // _PAGE * _PAGE for place in (first + at, first + min(at + _HUGE_PAGE, size)))
            if end > begin and _libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_POPULATE_WRITE):
                self._margin = 0
                return
            self._there = max(self._there, at + _HUGE_PAGE)


def _lazy_zeros(blocks: int, elements: int, dtype: torch.dtype) -> torch.Tensor:
    """[blocks, elements]. The pages come from calloc and take memory when they are first written: torch.zeros would touch all at start.

    All layers' parts of a block lie side by side. A page is huge, and the system fills it with zeros when a token reaches it. Were each
    layer a tensor of its own, a token in a new place would reach one in every layer, all in one step (300 ms in a virtual machine).
    """
    size = blocks * elements * dtype.itemsize
    memory = torch.from_numpy(np.zeros(size + _CACHE_LINE, dtype=np.uint8))
    first = -memory.data_ptr() % _CACHE_LINE
    return memory[first : first + size].view(dtype).view(blocks, elements)


def bytes_per_token(shapes: list[LayerShape], dtype: torch.dtype) -> int:
    return sum(shape.elements for shape in shapes) * dtype.itemsize
