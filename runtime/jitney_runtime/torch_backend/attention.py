"""Attention over blocks, registered with transformers' AttentionInterface, so that any decoder that dispatches to it needs no file of ours.

A step packs all rows into one [1, tokens] input. transformers computes projections and rotary embeddings for all of them at once and calls
`paged_attention` once per layer; causality is ours there, because an unknown attention name gets no mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from jitney_runtime.engine.model_runner import ScheduledBatch, ScheduledRow
from jitney_runtime.errors import NotSupportedYet
from jitney_runtime.torch_backend.cpu_kernels import BlockAttention, BlockStep, serves
from jitney_runtime.torch_backend.kv_cache import LayerCache, LayerShape

NAME = "jitney_paged"
# Attention features that change the result and that this implementation does not compute.
_REFUSED = ("softcap", "s_aux", "head_mask", "position_bias")


@dataclass(frozen=True)
class PromptRow:
    """A chunk of more than one token: packed places first..last, positions start..end of its sequence, its block table [1, blocks]."""

    first: int
    last: int
    start: int
    end: int
    table: torch.Tensor


@dataclass(frozen=True)
class StepPlan:
    """Where this step's tokens lie: made once per step, read by every layer.

    decode_index [rows] packed places of the one-token rows, None when the whole batch is such rows; decode_tables [rows, blocks];
    decode_lengths [rows] tokens including the new one; slots [tokens]; fresh [blocks] those whose first place is written in this step.
    """

    slots: torch.Tensor
    fresh: torch.Tensor | None
    positions: torch.Tensor
    decode_index: torch.Tensor | None
    decode_tables: torch.Tensor | None
    decode_lengths: torch.Tensor | None
    prompts: tuple[PromptRow, ...]
    places: int


def plan_step(batch: ScheduledBatch, block_size: int, device: torch.device) -> StepPlan:
    """Turn block lists into tensors."""
    slots: list[int] = []
    fresh: list[int] = []
    positions: list[int] = []
    decodes: list[tuple[int, ScheduledRow]] = []
    prompts: list[PromptRow] = []
    for row in batch.rows:
        first = len(slots)
        positions.extend(range(row.start, row.end))
        slots.extend(row.blocks[position // block_size] * block_size + position % block_size for position in range(row.start, row.end))
        fresh.extend(row.blocks[-(-row.start // block_size) : -(-row.end // block_size)])
        if len(row.tokens) == 1:
            decodes.append((first, row))
        else:
            table = torch.tensor([_written(row, block_size)], device=device)
            prompts.append(PromptRow(first, len(slots), row.start, row.end, table))
    tables = lengths = index = None
    if decodes:
        own = [_written(row, block_size) for _, row in decodes]
        width = max(map(len, own))
        # Short tables are filled up with a block of their own. The mask hides it, but 0 x NaN is NaN: nobody reads what a neighbour wrote.
        tables = torch.tensor([blocks + blocks[:1] * (width - len(blocks)) for blocks in own], device=device)
        lengths = torch.tensor([row.end for _, row in decodes], device=device)
        index = torch.tensor([place for place, _ in decodes], device=device) if prompts else None
    return StepPlan(
        torch.tensor(slots, device=device),
        torch.tensor(fresh, device=device) if fresh else None,
        torch.tensor([positions], device=device),
        index,
        tables,
        lengths,
        tuple(prompts),
        len(slots),
    )


def _written(row: ScheduledRow, block_size: int) -> tuple[int, ...]:
    """The blocks that hold something of the row after this step; it may own more, for tokens to come."""
    return row.blocks[: -(-row.end // block_size)]


class PagedAttention:
    """One model's layers and the plan of the step that is running. Engine thread only."""

    def __init__(self) -> None:
        self.plan: StepPlan | None = None
        self.shapes: list[LayerShape] = []
        self.caches: list[LayerCache] = []
        self._layers: dict[int, int] = {}
        self._heads: list[int] = []
        self._computes = torch.float32
        # The C kernel's side, None where it does not compute every layer of this model.
        self._step: BlockStep | None = None
        self._blocks: dict[int, BlockAttention] = {}
        self._masks: dict[int | None, torch.Tensor] = {}

    def attach(self, model: torch.nn.Module) -> None:
        for module in model.modules():
            object.__setattr__(module, "jitney_attention", self)

    def allocate(self, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device, kernel: str) -> None:
        """Take the KV memory: `blocks` blocks of `dtype` in every layer. `kernel` "plain" keeps to torch's operators."""
        self._blocks.clear()
        self.caches = [LayerCache(shape, blocks, block_size, dtype, device) for shape in self.shapes]
        layers = zip(self.shapes, self._heads, strict=True)
        if (
            kernel != "plain"
            and dtype in (torch.float32, torch.bfloat16)
            and all(serves(shape, heads, self._computes, device) for shape, heads in layers)
        ):
            self._step = BlockStep()

    @property
    def native(self) -> bool:
        """Whether decoding rows are computed by the C kernel."""
        return self._step is not None

    @property
    def modules(self) -> set[int]:
        """The ids of the modules that attend."""
        return set(self._layers)

    def begin(self, plan: StepPlan) -> None:
        self.plan = plan
        self._masks.clear()
        if self._step is not None:
            self._step.begin(plan.slots, plan.decode_index, plan.decode_tables, plan.decode_lengths)

    def attend(
        self, module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float | None, window: int | None
    ) -> torch.Tensor:
        """query [1, heads, tokens, dim], key and value [1, kv_heads, tokens, dim] -> [1, tokens, heads, dim]."""
        if self.plan is None:
            return self._probe(module, query, key, value, scale)
        layer = self._layers[id(module)]
        cache = self.caches[layer]
        if self._step is not None:
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

    def _native(
        self,
        layer: int,
        step: BlockStep,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """query [heads, tokens, dim], key and value [kv_heads, tokens, dim] -> [tokens, heads, dim]."""
        assert self.plan is not None
        if layer not in self._blocks:
            scale = query.shape[-1] ** -0.5 if scale is None else scale
            self._blocks[layer] = BlockAttention(self.caches[layer], query.shape[0], scale, window)
        blocks = self._blocks[layer]
        blocks.store(step, key, value)
        output = blocks.attend(step, query)
        for row in self.plan.prompts:
            blocks.attend_prompt(query, output, row.first, row.last, row.start, row.table[0])
        return output

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
