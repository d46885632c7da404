"""A look at a CPU's attention kernels before they are used: a prompt in two chunks and a token behind it, beside torch's in float64."""

from __future__ import annotations

import logging

import torch
from torch.nn.functional import scaled_dot_product_attention

from jitney_runtime.torch_backend.cpu_kernels import BlockAttention, BlockStep
from jitney_runtime.torch_backend.cuda_attention import PromptRow
from jitney_runtime.torch_backend.kv_cache import KVCache, LayerShape

logger = logging.getLogger(__name__)

# Tokens of a sequence, and where its prompt is cut; the last token is an answer's.
_TOKENS, _CUT = 75, 9
# Of the largest value: what a right kernel stays far below, and a wrong one does not.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


@torch.inference_mode()
def attends_rightly(shape: LayerShape, heads: int, block_size: int, dtype: torch.dtype) -> bool:
    """Whether this layer's attention over blocks of `dtype` is right on this machine; a warning where it is not."""
    cpu, dice = torch.device("cpu"), torch.Generator().manual_seed(0)
    query = torch.randn(_TOKENS, heads, shape.key_dim, generator=dice)
    key, value = (torch.randn(_TOKENS, shape.kv_heads, dim, generator=dice).to(dtype).float() for dim in (shape.key_dim, shape.value_dim))
    blocks = -(-_TOKENS // block_size)
    # Backwards: the order of blocks says nothing.
    table = torch.arange(blocks - 1, -1, -1)[None]
    places = torch.arange(_TOKENS)
    slots = table[0, places // block_size] * block_size + places % block_size
    scale = shape.key_dim**-0.5
    attention, step = BlockAttention(KVCache([shape], blocks, block_size, dtype, cpu).layers[0], heads, scale, None), BlockStep()
    found = []
    for start, end in ((0, _CUT), (_CUT, _TOKENS - 1), (_TOKENS - 1, _TOKENS)):
        if end < _TOKENS:
            step.begin(slots[start:end], torch.empty(0, dtype=torch.long), None, None, [PromptRow(0, end - start, start, end, table)])
        else:
            step.begin(slots[start:], None, table, torch.tensor([_TOKENS]))
        attention.store(step, key[start:end].transpose(0, 1), value[start:end].transpose(0, 1))
        found.append(attention.attend(step, query[start:end].transpose(0, 1)))
    queries, keys, values = (part.double().transpose(0, 1)[None] for part in (query, key, value))
    wanted = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale, enable_gqa=True)[0].transpose(0, 1)
    off = (torch.cat(found) - wanted).abs().max() / value.abs().max()
    # So that what is no number is wrong.
    if not off < _TOLERANCE[dtype]:
        words = "the attention kernel failed its self-check for %d heads of %d over %s and is not used: torch's is, which is slower"
        logger.warning(words, heads, shape.key_dim, dtype)
        return False
    return True
