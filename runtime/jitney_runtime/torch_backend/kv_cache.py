"""Keys and values in blocks: one pair of tensors per attention layer, [blocks, block_size, kv_heads, dim]. On a CPU those of all layers
lie side by side in each block.

Where the C kernels attend, the memory of a block is theirs, and they keep the places of one head side by side in it (kernels.h).
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod

import numpy as np
import torch

from jitney_runtime.torch_backend.pages_ahead import PagesAhead

# Bytes. The first block begins at a line, and with it every row whose size is a multiple of it.
_CACHE_LINE = 64


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
        # Where memory is taken from the system as it is written.
        self.pages: PagesAhead | None = None
        if self._memory is not None:
            self.pages = PagesAhead(self._memory.data_ptr(), blocks, end * dtype.itemsize)
            weakref.finalize(self, self.pages.close)


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
