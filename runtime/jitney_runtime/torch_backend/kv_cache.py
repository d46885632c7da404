"""Keys and values in blocks: one pair of tensors per attention layer, [blocks, block_size, kv_heads, head_dim]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class LayerShape:
    """What one attention layer stores per token; values may have another width than keys."""

    kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def elements(self) -> int:
        return self.kv_heads * (self.key_dim + self.value_dim)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """On a CPU the pages come from calloc and take memory when they are first written: torch.zeros would touch all of the pool at start."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    count = int(np.prod(shape)) * dtype.itemsize
    return torch.from_numpy(np.zeros(count, dtype=np.uint8)).view(dtype).view(shape)


class LayerCache:
    """One layer's share of the pool. Slots are token places: block id x block_size + offset."""

    def __init__(self, shape: LayerShape, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device) -> None:
        self.keys = _zeros((blocks, block_size, shape.kv_heads, shape.key_dim), dtype, device)
        self.values = _zeros((blocks, block_size, shape.kv_heads, shape.value_dim), dtype, device)

    def write(self, slots: torch.Tensor, fresh: torch.Tensor | None, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store [tokens, kv_heads, dim] at `slots` [tokens].

        The blocks `fresh` are emptied first: attention multiplies the places behind the last token by 0, and 0 x NaN, or what else their
        last owner left there, is NaN.
        """
        if fresh is not None:
            self.keys.index_fill_(0, fresh, 0)
            self.values.index_fill_(0, fresh, 0)
        self.keys.flatten(0, 1).index_copy_(0, slots, keys.to(self.keys.dtype))
        self.values.flatten(0, 1).index_copy_(0, slots, values.to(self.values.dtype))

    def read(self, tables: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gather the blocks of `tables` [rows, blocks]; two views [rows, kv_heads, blocks x block_size, dim]."""
        rows, width = tables.shape
        flat = tables.flatten()
        keys = self.keys.index_select(0, flat).view(rows, width * self.keys.shape[1], *self.keys.shape[2:])
        values = self.values.index_select(0, flat).view(rows, width * self.values.shape[1], *self.values.shape[2:])
        return keys.transpose(1, 2), values.transpose(1, 2)


def bytes_per_token(shapes: list[LayerShape], dtype: torch.dtype) -> int:
    return sum(shape.elements for shape in shapes) * dtype.itemsize
