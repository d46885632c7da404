"""Models for tests: tiny random ones made on the spot, and the real test model."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

TINY = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 24},
    "mistral": {"sliding_window": 12},
    "gemma3_text": {"sliding_window": 12, "head_dim": 16, "query_pre_attn_scalar": 16},
}
_SHAPE = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    # With the default 0.02 and tied embeddings a tiny model keeps most of its tokens even with attention removed: it would prove nothing.
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "eos_token_id": None,
    "bos_token_id": None,
    "pad_token_id": None,
}


def tiny_model(kind: str, attention: str, seed: int = 0) -> PreTrainedModel:
    """A random float32 model of `kind`; the same weights for the same seed, whatever the attention implementation."""
    config = AutoConfig.for_model(kind, **(_SHAPE | TINY[kind]))
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


@functools.cache
def smollm2_folder() -> Path:
    """The real test model; made in the cache when it is not there yet."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "e2e"))
    from test_model import model_folder

    return model_folder()


def smollm2(attention: str) -> PreTrainedModel:
    model: Any = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.float32, attn_implementation=attention)
    return model.eval().requires_grad_(False)
