"""Attention over blocks on a GPU: our kernel for decoding rows, torch's flash attention for all prompts of a step together."""

from __future__ import annotations

import logging
from ctypes import c_float, c_int, c_longlong
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from jitney_runtime.kernels.cuda.program import CompileError, Number, Program
from jitney_runtime.torch_backend.cuda_program import TYPES, program, stream
from jitney_runtime.torch_backend.kv_cache import LayerCache, LayerShape

logger = logging.getLogger(__name__)

_WIDEST = 256
_THREADS = 128
# Thread blocks that one long sequence may keep busy, and the memory that their sums may take.
_MOST_PARTS, _SUMS_BYTES = 16, 64 * 2**20


def serves(shape: LayerShape, heads: int, dtype: torch.dtype) -> bool:
    """Whether our kernel computes such a layer."""
    dims = (shape.key_dim, shape.value_dim)
    return dtype in TYPES and heads % shape.kv_heads == 0 and all(dim % 8 == 0 and dim <= _WIDEST for dim in dims)


def _program(shape: LayerShape, heads: int, block_size: int, dtype: torch.dtype, device: torch.device) -> Program:
    group = heads // shape.kv_heads
    dims = {"KEY_DIM": shape.key_dim, "VALUE_DIM": shape.value_dim, "GROUP": group, "BLOCK_SIZE": block_size}
    return program("attention.cu", device, TYPE=TYPES[dtype], **dims)


def compiles(shapes: list[LayerShape], heads: list[int], block_size: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether every layer's kernel can be built and loaded here; the log says why not."""
    try:
        for shape, count in zip(shapes, heads, strict=True):
            _program(shape, count, block_size, dtype, device)
    except (CompileError, OSError, RuntimeError) as error:
        logger.warning("attention is computed by torch's operators, because our kernel cannot be built: %s", error)
        return False
    return True


@dataclass(frozen=True)
class PromptRow:
    """A chunk of more than one token: packed places first..last, positions start..end of its sequence, its block table [1, blocks]."""

    first: int
    last: int
    start: int
    end: int
    table: torch.Tensor


class Rows(NamedTuple):
    """Tokens that attend one by one: `places` [rows] in the step, None when every token is such a row; `owners` [rows] which of `tables` is
    theirs, None when each has its own; `lengths` [rows]; `width` [1] the blocks in a row of `tables`."""

    places: torch.Tensor | None
    owners: torch.Tensor | None
    tables: torch.Tensor
    lengths: torch.Tensor
    width: torch.Tensor


class _Prompts:
    """All prompt chunks of a step, side by side."""

    def __init__(self, prompts: tuple[PromptRow, ...], block_size: int, places: int, device: torch.device) -> None:
        self.rows = prompts
        self.blocks = torch.cat([row.table[0] for row in prompts])
        queries, keys = [0], [0]
        for row in prompts:
            queries.append(queries[-1] + row.last - row.first)
            keys.append(keys[-1] + row.table.shape[1] * block_size)
        self.longest_query = max(row.last - row.first for row in prompts)
        self.longest_key = max(row.end for row in prompts)
        whole = queries[-1] == places
        self.index = None if whole else torch.cat([torch.arange(row.first, row.last, device=device) for row in prompts])
        ends = torch.tensor([*queries, *keys, *(row.end for row in prompts)], dtype=torch.int32, device=device)
        self.query_ends, self.key_ends, self.used = ends[: len(queries)], ends[len(queries) : -len(prompts)], ends[-len(prompts) :]


class CudaStep:
    """The step that is running, as all layers see it. Engine thread only."""

    def __init__(self) -> None:
        self.slots = torch.empty(0)
        self.rows: Rows | None = None
        self.prompts: _Prompts | None = None

    def begin(self, slots: torch.Tensor, rows: Rows | None, prompts: tuple[PromptRow, ...], block_size: int) -> None:
        """slots [tokens] of everything that is stored."""
        self.slots, self.rows = slots, rows
        self.prompts = _Prompts(prompts, block_size, len(slots), slots.device) if prompts else None


class Sums:
    """What the parts of long sequences have found, before they are added up: one for all layers of a shape, since these run in turn."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._rows, self._device = rows, device
        self._memory: dict[tuple[int, int], tuple[int, torch.Tensor, torch.Tensor]] = {}

    def of(self, chunks: int, numbers: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        """How many parts there may be, their sums, and the counters: for `chunks` thread blocks a row, each of `numbers` a part."""
        if (chunks, numbers) not in self._memory:
            parts = max(1, min(_MOST_PARTS, _SUMS_BYTES // (4 * self._rows * chunks * numbers)))
            sums = torch.empty(self._rows * chunks * parts * numbers, device=self._device)
            arrived = torch.zeros(self._rows * chunks, dtype=torch.int32, device=self._device)
            self._memory[chunks, numbers] = parts, sums, arrived
        return self._memory[chunks, numbers]


class CudaBlockAttention:
    """One layer's cache as the kernels see it."""

    def __init__(self, cache: LayerCache, heads: int, scale: float, window: int | None, sums: Sums) -> None:
        self._cache = cache
        _, block_size, self._kv_heads, self._key_dim = cache.keys.shape
        self._value_dim = cache.values.shape[3]
        self._heads, self._scale, self._window = heads, scale, window
        group = heads // self._kv_heads
        dtype, device = cache.keys.dtype, cache.keys.device
        shape = LayerShape(self._kv_heads, self._key_dim, self._value_dim)
        self._program = _program(shape, heads, block_size, dtype, device)
        chunks = -(-group // 8)
        self._chunks = self._kv_heads * chunks
        self._parts, self._sums, self._arrived = sums.of(self._chunks, -(-group // chunks) * (self._value_dim + 2))
        self._flash = dtype is not torch.float32 and self._key_dim == self._value_dim and torch.cuda.get_device_capability(device) >= (8, 0)

    def store(self, step: CudaStep, keys: torch.Tensor, values: torch.Tensor) -> None:
        """keys and values [kv_heads, tokens, dim], any strides but the last, into the step's slots."""
        keys, values = _rows(keys), _rows(values)
        pointers = (keys, values, self._cache.keys, self._cache.values, step.slots)
        strides = (keys.stride(1), keys.stride(0), values.stride(1), values.stride(0))
        numbers: list[Number] = [*(c_longlong(stride) for stride in strides), c_int(self._kv_heads)]
        self._program.launch(
            "store",
            (len(step.slots), 1, 1),
            _THREADS,
            stream(),
            [tensor.data_ptr() for tensor in pointers],
            numbers,
        )

    def attend(self, step: CudaStep, query: torch.Tensor) -> torch.Tensor:
        """query [heads, tokens, dim], any strides but the last -> [tokens, heads, value_dim]."""
        query = _rows(query)
        output = query.new_empty(query.shape[1], self._heads, self._value_dim)
        if step.rows is not None:
            self._decode(step.rows, query, output)
        if step.prompts is not None:
            self._attend_prompts(step.prompts, query.transpose(0, 1), output)
        return output

    def _decode(self, rows: Rows, query: torch.Tensor, output: torch.Tensor) -> None:
        pointers = (query, output, self._cache.keys, self._cache.values, rows.places, rows.owners, rows.tables, rows.lengths, rows.width)
        places = [None if tensor is None else tensor.data_ptr() for tensor in (*pointers, self._sums, self._arrived)]
        numbers: list[Number] = [c_longlong(query.stride(1)), c_longlong(query.stride(0)), c_int(self._kv_heads), c_int(self._window or 0)]
        grid = (len(rows.lengths), self._chunks, self._parts)
        self._program.launch("attend", grid, _THREADS, stream(), places, [*numbers, c_float(self._scale)])

    def _attend_prompts(self, prompts: _Prompts, query: torch.Tensor, output: torch.Tensor) -> None:
        """query [tokens, heads, dim]. The chunks' keys and values are stored."""
        if not self._flash:
            for row in prompts.rows:
                output[row.first : row.last] = self._masked(row, query)
            return
        keys, values = (part.index_select(0, prompts.blocks).flatten(0, 1) for part in (self._cache.keys, self._cache.values))
        # The operator behind torch.nn.attention.varlen, which itself has no name for it that stays from release to release.
        found: torch.Tensor = torch.ops.aten._flash_attention_forward(
            query.contiguous() if prompts.index is None else query[prompts.index],
            keys,
            values,
            prompts.query_ends,
            prompts.key_ends,
            prompts.longest_query,
            prompts.longest_key,
            0.0,
            True,
            False,
            scale=self._scale,
            window_size_left=None if self._window is None else self._window - 1,
            window_size_right=None if self._window is None else 0,
            seqused_k=prompts.used,
        )[0]
        if prompts.index is None:
            output.copy_(found)
        else:
            output.index_copy_(0, prompts.index, found)

    def _masked(self, row: PromptRow, query: torch.Tensor) -> torch.Tensor:
        """One chunk by torch's general operator: [tokens, heads, value_dim]."""
        keys, values = (part[:, :, : row.end] for part in self._cache.read(row.table))
        at = torch.arange(row.start, row.end, device=query.device)[:, None]
        seen = torch.arange(row.end, device=query.device)[None, :]
        mask = seen <= at
        if self._window is not None:
            mask &= seen > at - self._window
        mine = query[row.first : row.last].transpose(0, 1)[None]
        return scaled_dot_product_attention(mine, keys, values, attn_mask=mask, scale=self._scale, enable_gqa=True)[0].transpose(0, 1)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
