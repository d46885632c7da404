"""Attention over blocks, registered with transformers' AttentionInterface, so that any decoder that dispatches to it needs no file of ours.

A step packs all rows into one [1, tokens] input. transformers computes projections and rotary embeddings for all of them at once and calls
`paged_attention` once per layer; causality is ours there, because an unknown attention name gets no mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from jitney_runtime.engine.model_runner import ScheduledBatch, ScheduledRow
from jitney_runtime.errors import NotSupportedYet
from jitney_runtime.torch_backend import cpu_kernels, cuda_attention
from jitney_runtime.torch_backend.attention_check import attends_rightly
from jitney_runtime.torch_backend.cpu_kernels import BlockAttention, BlockStep
from jitney_runtime.torch_backend.cuda_attention import CudaBlockAttention, CudaStep, PromptRow, Rows, Sums
from jitney_runtime.torch_backend.kv_cache import KVCache, LayerCache, LayerShape
from jitney_runtime.torch_backend.pages_ahead import PagesAhead

NAME = "jitney_paged"
# Tokens that attend one by one in a step that is recorded on a GPU, at most. Wider steps keep it busy for longer than Python takes to start
# them.
WIDEST = 512
# Attention features that change the result and that this implementation does not compute.
_REFUSED = ("softcap", "s_aux", "head_mask", "position_bias")


@dataclass(frozen=True)
class StepPlan:
    """Where this step's tokens lie: made once per step, read by every layer.

    ids and positions [1, tokens]; sampled [rows] packed places whose next token is drawn; decode_index [rows] packed places of the
    one-token rows, None when the whole batch is such rows; decode_tables [rows, blocks], and how many blocks that is, decode_width [1];
    decode_owners [rows] which of the tables is a row's, None when each has its own; decode_lengths [rows] tokens including the new one;
    slots [tokens]; fresh [blocks] those whose first place is written in this step.
    """

    ids: torch.Tensor
    sampled: torch.Tensor
    slots: torch.Tensor
    fresh: torch.Tensor | None
    positions: torch.Tensor
    decode_index: torch.Tensor | None
    decode_tables: torch.Tensor | None
    decode_lengths: torch.Tensor | None
    decode_width: torch.Tensor | None
    decode_owners: torch.Tensor | None
    prompts: tuple[PromptRow, ...]
    places: int


def plan_step(batch: ScheduledBatch, block_size: int, device: torch.device) -> StepPlan:
    """Turn block lists into tensors."""
    slots: list[int] = []
    fresh: list[int] = []
    positions: list[int] = []
    sampled: list[int] = []
    decodes: list[tuple[int, ScheduledRow]] = []
    prompts: list[tuple[int, ScheduledRow]] = []
    for row in batch.rows:
        # On a CPU a prompt gets the same however it is cut, by the kernel that computes prompts.
        cut = row.of_prompt and device.type == "cpu"
        (decodes if len(row.tokens) == 1 and not cut else prompts).append((len(slots), row))
        positions.extend(range(row.start, row.end))
        slots.extend(row.blocks[position // block_size] * block_size + position % block_size for position in range(row.start, row.end))
        fresh.extend(row.blocks[-(-row.start // block_size) : -(-row.end // block_size)])
        if row.sample:
            sampled.append(len(slots) - 1)
    own = [_written(row, block_size) for _, row in decodes]
    width = max(map(len, own), default=0)
    lists = (
        [token for row in batch.rows for token in row.tokens],
        sampled,
        slots,
        fresh,
        positions,
        [place for place, _ in decodes],
        # Short tables are filled up with a block of their own. The mask hides it, but 0 x NaN is NaN: nobody reads what a neighbour wrote.
        list(chain.from_iterable(blocks + blocks[:1] * (width - len(blocks)) for blocks in own)),
        [row.end for _, row in decodes],
        [width],
        *(_written(row, block_size) for _, row in prompts),
    )
    ids, last, to, empty, at, index, tables, lengths, wide, *written = _tensors(lists, device)
    return StepPlan(
        ids[None],
        last,
        to,
        empty if fresh else None,
        at[None],
        index if decodes and prompts else None,
        tables.view(len(decodes), width) if decodes else None,
        lengths if decodes else None,
        wide if decodes else None,
        None,
        tuple(
            PromptRow(place, place + len(row.tokens), row.start, row.end, table[None])
            for (place, row), table in zip(prompts, written, strict=True)
        ),
        len(slots),
    )


def _tensors(lists: tuple[Sequence[int], ...], device: torch.device) -> list[torch.Tensor]:
    """One int64 tensor for each; on a GPU by one copy, which nobody waits for."""
    if device.type != "cuda":
        return [torch.tensor(numbers, dtype=torch.long) for numbers in lists]
    packed = torch.tensor(list(chain.from_iterable(lists)), dtype=torch.long).pin_memory()
    ends = list(accumulate(map(len, lists)))
    there = packed.to(device, non_blocking=True)
    return [there[end - len(numbers) : end] for numbers, end in zip(lists, ends, strict=True)]


def _written(row: ScheduledRow, block_size: int) -> tuple[int, ...]:
    """The blocks that hold something of the row after this step; it may own more, for tokens to come."""
    return row.blocks[: -(-row.end // block_size)]


class PagedAttention:
    """One model's layers and the plan of the step that is running. Engine thread only."""

    def __init__(self) -> None:
        self.plan: StepPlan | None = None
        self.shapes: list[LayerShape] = []
        self.memory: KVCache | None = None
        self._layers: dict[int, int] = {}
        self._heads: list[int] = []
        self._computes = torch.float32
        # The kernels' side, None where they do not compute every layer of this model.
        self._step: BlockStep | CudaStep | None = None
        self._sums: Sums | None = None
        self._blocks: dict[int, BlockAttention | CudaBlockAttention] = {}
        self._masks: dict[int | None, torch.Tensor] = {}

    def attach(self, model: torch.nn.Module) -> None:
        for module in model.modules():
            object.__setattr__(module, "jitney_attention", self)

    def allocate(self, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device, kernel: str, rows: int) -> None:
        """Take the KV memory: `blocks` blocks of `dtype` in every layer, for up to `rows` decoding rows in a step. `kernel` "plain" keeps
        to torch's operators."""
        self._blocks.clear()
        self._step = None
        self.memory = KVCache(self.shapes, blocks, block_size, dtype, device)
        if kernel == "plain":
            return
        if device.type == "cuda" and self._served_by_cuda(block_size, dtype, device):
            self._step, self._sums = CudaStep(), Sums(max(rows, WIDEST), device)
        elif device.type == "cpu" and self._served_by_cpu(block_size, dtype, device):
            self._step = BlockStep()

    def _served_by_cpu(self, block_size: int, dtype: torch.dtype, device: torch.device) -> bool:
        layers = set(zip(self.shapes, self._heads, strict=True))
        if dtype not in (torch.float32, torch.bfloat16):
            return False
        return all(cpu_kernels.serves(*layer, self._computes, device) and attends_rightly(*layer, block_size, dtype) for layer in layers)

    def _served_by_cuda(self, block_size: int, dtype: torch.dtype, device: torch.device) -> bool:
        layers = zip(self.shapes, self._heads, strict=True)
        if dtype is not self._computes or not all(cuda_attention.serves(shape, heads, dtype) for shape, heads in layers):
            return False
        return cuda_attention.compiles(self.shapes, self._heads, block_size, dtype, device)

    @property
    def caches(self) -> list[LayerCache]:
        return self.memory.layers if self.memory is not None else []

    @property
    def pages(self) -> PagesAhead | None:
        return self.memory.pages if self.memory is not None else None

    @property
    def native(self) -> bool:
        """Whether attention is computed by our kernels."""
        return self._step is not None

    @property
    def modules(self) -> set[int]:
        """The ids of the modules that attend."""
        return set(self._layers)

    def begin(self, plan: StepPlan) -> None:
        self.plan = plan
        self._masks.clear()
        if isinstance(self._step, CudaStep):
            self._step.begin(plan.slots, _decoding(plan), plan.prompts, self.caches[0].keys.shape[1])
        elif self._step is not None:
            self._step.begin(plan.slots, plan.decode_index, plan.decode_tables, plan.decode_lengths, plan.prompts)

    def attend(
        self, module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, window: int | None
    ) -> torch.Tensor:
        """query [1, heads, tokens, dim], key and value [1, kv_heads, tokens, dim] -> [1, tokens, heads, dim]."""
        if self.plan is None:
            return self._probe(module, query, key, value, scale)
        layer = self._layers[id(module)]
        cache = self.caches[layer]
        if self._step is not None:
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            if isinstance(self._step, CudaStep):
                return self._on_cuda(layer, self._step, query[0], key[0], value[0], scale, window).unsqueeze(0)
            return self._native(layer, self._step, query[0], key[0], value[0], scale, window).unsqueeze(0)
        if self.plan.prompts and cache.keys.dtype is not key.dtype:
            # A prompt sees of itself what a later chunk will, however it is cut.
            key, value = (part.to(cache.keys.dtype).to(part.dtype) for part in (key, value))
        cache.write(self.plan.slots, self.plan.fresh, key[0].transpose(0, 1), value[0].transpose(0, 1))
        if not self.plan.prompts:
            return self._decode(query[0].transpose(0, 1), cache, scale, window).unsqueeze(0)
        output = query.new_empty(self.plan.places, query.shape[1], value.shape[-1])
        if self.plan.decode_index is not None:
            rows = query[0].index_select(1, self.plan.decode_index).transpose(0, 1)
            output.index_copy_(0, self.plan.decode_index, self._decode(rows, cache, scale, window))
        for row in self.plan.prompts:
            output[row.first : row.last] = self._prompt(row, query, key, value, cache, scale, window)
        return output.unsqueeze(0)

    def _on_cuda(
        self, layer: int, step: CudaStep, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """The same as _native, on a GPU."""
        blocks = self._blocks.get(layer)
        if not isinstance(blocks, CudaBlockAttention):
            assert self._sums is not None
            blocks = self._blocks[layer] = CudaBlockAttention(self.caches[layer], query.shape[0], scale, window, self._sums)
        blocks.store(step, key, value)
        return blocks.attend(step, query)

    def _native(
        self, layer: int, step: BlockStep, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float, window: int | None
    ) -> torch.Tensor:
        """query [heads, tokens, dim], key and value [kv_heads, tokens, dim] -> [tokens, heads, dim]."""
        blocks = self._blocks.get(layer)
        if not isinstance(blocks, BlockAttention):
            blocks = self._blocks[layer] = BlockAttention(self.caches[layer], query.shape[0], scale, window)
        blocks.store(step, key, value)
        return blocks.attend(step, query)

    def _probe(
        self, module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None
    ) -> torch.Tensor:
        """The forward pass at load: learn which modules attend, and what they store."""
        if id(module) in self._layers:
            raise NotSupportedYet(f"{type(module).__name__} attends more than once in a forward pass, which Jitney does not serve yet")
        self._layers[id(module)] = len(self.shapes)
        self._heads.append(query.shape[1])
        self._computes = query.dtype
        self.shapes.append(LayerShape(key.shape[1], key.shape[3], value.shape[3]))
        return scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True).transpose(1, 2)

    def _decode(self, query: torch.Tensor, cache: LayerCache, scale: float | None, window: int | None) -> torch.Tensor:
        """query [rows, heads, dim]; the heads that share keys become query rows, so that no key is repeated."""
        assert self.plan is not None
        assert self.plan.decode_tables is not None
        keys, values = (part.to(query.dtype) for part in cache.read(self.plan.decode_tables))
        rows, heads, dim = query.shape
        grouped = query.reshape(rows, keys.shape[1], heads // keys.shape[1], dim)
        output = scaled_dot_product_attention(grouped, keys, values, attn_mask=self._decode_mask(keys.shape[2], window), scale=scale)
        return output.reshape(rows, heads, values.shape[-1])

    def _decode_mask(self, places: int, window: int | None) -> torch.Tensor:
        """[rows, 1, 1, places], true where a row may look. The same for all layers of one window."""
        if window not in self._masks:
            assert self.plan is not None
            assert self.plan.decode_lengths is not None
            lengths = self.plan.decode_lengths[:, None]
            at = torch.arange(places, device=lengths.device)[None, :]
            mask = at < lengths
            if window is not None:
                mask &= at >= lengths - window
            self._masks[window] = mask[:, None, None, :]
        return self._masks[window]

    def _prompt(
        self,
        row: PromptRow,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: LayerCache,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """[tokens, heads, dim] of one chunk: causal over everything its sequence holds so far."""
        mine = query[:, :, row.first : row.last]
        if row.start == 0:
            keys, values = key[:, :, row.first : row.last], value[:, :, row.first : row.last]
        else:
            keys, values = (part[:, :, : row.end].to(query.dtype) for part in cache.read(row.table))
        if row.start == 0 and (window is None or row.end <= window):
            output = scaled_dot_product_attention(mine, keys, values, is_causal=True, scale=scale, enable_gqa=True)
        else:
            mask = _chunk_mask(row.start, row.end, window, query.device)
            output = scaled_dot_product_attention(mine, keys, values, attn_mask=mask, scale=scale, enable_gqa=True)
        return output[0].transpose(0, 1)


def _decoding(plan: StepPlan) -> Rows | None:
    if plan.decode_tables is None:
        return None
    assert plan.decode_lengths is not None
    assert plan.decode_width is not None
    return Rows(plan.decode_index, plan.decode_owners, plan.decode_tables, plan.decode_lengths, plan.decode_width)


def _chunk_mask(start: int, end: int, window: int | None, device: torch.device) -> torch.Tensor:
    """[end - start, end]: aligned to the bottom right, which SDPA's own is_causal is not."""
    query_at = torch.arange(start, end, device=device)[:, None]
    key_at = torch.arange(end, device=device)[None, :]
    mask = key_at <= query_at
    return mask if window is None else mask & (key_at > query_at - window)


def paged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: returns [1, tokens, heads, dim] and no weights."""
    refused = [name for name in _REFUSED if kwargs.get(name) is not None]
    if refused or attention_mask is not None:
        what = " and ".join(refused) or "an attention mask of its own"
        raise NotSupportedYet(f"the model's attention uses {what}, which Jitney does not compute yet")
    attention: PagedAttention = module.jitney_attention
    return attention.attend(module, query, key, value, scaling, sliding_window), None


def register() -> None:
    """Make NAME known to transformers; safe to repeat."""
    AttentionInterface.register(NAME, paged_attention)
