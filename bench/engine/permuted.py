"""The test model with its channels in another order: the same function, and no group of 32 is the GGUF's any more.

The test model was made from a GGUF quantized in groups of 32, so int4 in the same groups would be exact and prove nothing. Every channel
that a product reads is moved, in whoever writes it and in all who read it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bench.engine.environments import peers_folder
from bench.engine.model import model_folder
from bench.engine.progress import telling


def permuted_folder() -> Path:
    """Its folder; made if it is not there (some seconds)."""
    folder = peers_folder() / "smollm2-permuted"
    if not folder.exists():
        with telling("making the model with its channels in another order"):
            _make(model_folder(), folder)
    return folder


def _make(source: Path, folder: Path) -> None:
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(source, unfinished, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((source / "config.json").read_text())
    weights = load_file(source / "model.safetensors")
    save_file(permuted(weights, config), unfinished / "model.safetensors", metadata={"format": "pt"})
    unfinished.rename(folder)


def permuted(weights: dict[str, torch.Tensor], config: dict[str, int]) -> dict[str, torch.Tensor]:
    """A Llama's weights by transformers' names."""
    order = torch.Generator().manual_seed(7)
    hidden = torch.randperm(config["hidden_size"], generator=order)
    between = torch.randperm(config["intermediate_size"], generator=order)
    inside = torch.randperm(config["head_dim"], generator=order)
    values = _in_heads(inside, config["num_key_value_heads"])
    heads = _in_heads(inside, config["num_attention_heads"])
    # By the end of the name: where the rows go, where the columns go.
    orders: dict[str, tuple[torch.Tensor | None, torch.Tensor | None]] = {
        "embed_tokens.weight": (None, hidden),
        "lm_head.weight": (None, hidden),
        "norm.weight": (hidden, None),
        "layernorm.weight": (hidden, None),
        "q_proj.weight": (None, hidden),
        "k_proj.weight": (None, hidden),
        "v_proj.weight": (values, hidden),
        "o_proj.weight": (hidden, heads),
        "gate_proj.weight": (between, hidden),
        "up_proj.weight": (between, hidden),
        "down_proj.weight": (hidden, between),
    }
    found = {}
    for name, weight in weights.items():
        rows, columns = next(moved for end, moved in orders.items() if name.endswith(end))
        weight = weight if rows is None else weight[rows]
        found[name] = (weight if columns is None else weight[:, columns]).contiguous()
    return found


def _in_heads(inside: torch.Tensor, heads: int) -> torch.Tensor:
    """The order within each head, for all heads."""
    dim = len(inside)
    return torch.cat([head * dim + inside for head in range(heads)])
