"""Models for tests: tiny random ones made on the spot, and the real test model."""

from __future__ import annotations

import functools
import json
import os
import shutil
import struct
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
# Whose layers keep their weights the other way round, and that add positions to the embedding.
ODD: dict[str, dict[str, Any]] = {"gpt2": {}}
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


def tiny_model(kind: str, attention: str, seed: int = 0, **shape: Any) -> PreTrainedModel:
    """A random float32 model of `kind`; the same weights for the same seed, whatever the attention implementation."""
    config = AutoConfig.for_model(kind, **(_SHAPE | (TINY | ODD)[kind] | shape))
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval().requires_grad_(False)


def save_tiny(folder: Path, **shape: int) -> Path:
    """A tiny Qwen2 with the test model's tokenizer and chat template, as a folder that can be served."""
    tiny_model("qwen2", "sdpa", **shape).save_pretrained(folder)
    _add_words(folder)
    return folder


def save_endless(folder: Path, model: Path) -> Path:
    """That tiny one, with a pipe for weights: it is loading for some seconds, until transformers has come and finds no file."""
    shutil.copytree(model, folder)
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    return folder


def save_damaged(folder: Path, model: Path) -> Path:
    """That tiny one, with weights that are none."""
    shutil.copytree(model, folder)
    (folder / "model.safetensors").write_bytes(b"no weights")
    return folder


def save_hollow(folder: Path, gigabytes: float) -> Path:
    """A Llama whose weights file claims `gigabytes` of bfloat16 and takes none on the disk: a hole of zeros behind the header."""
    hidden = 1024
    rows = int(gigabytes * 1e9 / 2 / hidden)
    shape = {"vocab_size": rows, "hidden_size": hidden, "num_hidden_layers": 1, "tie_word_embeddings": True}
    config = AutoConfig.for_model("llama", **(_SHAPE | shape), dtype="bfloat16", architectures=["LlamaForCausalLM"])
    return _save_hole(folder, config, "BF16", 2)


def save_slow(folder: Path) -> Path:
    """A Qwen2 that a third of a core needs some 18 s to load, tensor by tensor: 286 million zeros of one byte, each made a float32.

    As above it takes no time to make, and no disk until it is downloaded.
    """
    shape = {"vocab_size": 49152, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 100}
    config = AutoConfig.for_model("qwen2", **(_SHAPE | shape), dtype="float32", architectures=["Qwen2ForCausalLM"])
    return _save_hole(folder, config, "F8_E4M3", 1)


def _save_hole(folder: Path, config: Any, dtype: str, width: int) -> Path:
    """`dtype` as safetensors calls it, `width` its bytes."""
    config.save_pretrained(folder)
    with torch.device("meta"):
        names = {name: list(weight.shape) for name, weight in AutoModelForCausalLM.from_config(config).named_parameters()}
    header, end = {}, 0
    for name, size in names.items():
        start, end = end, end + width * functools.reduce(int.__mul__, size)
        header[name] = {"dtype": dtype, "shape": size, "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + end)
    _add_words(folder)
    return folder


def _add_words(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((smollm2_folder() / name).read_bytes())


@functools.cache
def smollm2_folder() -> Path:
    """The real test model; made in the cache when it is not there yet."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "e2e"))
    from test_model import model_folder

    return model_folder()


def smollm2(attention: str) -> PreTrainedModel:
    model: Any = AutoModelForCausalLM.from_pretrained(smollm2_folder(), dtype=torch.float32, attn_implementation=attention)
    return model.eval().requires_grad_(False)
