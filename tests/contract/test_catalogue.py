"""The catalogue's figures against transformers' own classes: each model is built without memory (device meta) and counted."""

from __future__ import annotations

import re
from collections import Counter
from importlib import resources
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from jitney_operator.catalogue import Model
from jitney_runtime.torch_backend import loading

TEXT = resources.files("jitney_operator").joinpath("catalogue.yaml").read_text()
CATALOGUE: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(TEXT)
ENTRIES = [pytest.param(entry, id=f"{name}-{size}") for name, sizes in CATALOGUE.items() for size, entry in sizes.items()]
# The first that a repository's name begins with.
TYPES = {
    "Qwen/Qwen3-30B": "qwen3_moe",
    "Qwen/Qwen3-235B": "qwen3_moe",
    "Qwen/Qwen3": "qwen3",
    "Qwen/": "qwen2",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen": "qwen2",
    "deepseek-ai/": "llama",
    "meta-llama/": "llama",
    "TinyLlama/": "llama",
    "HuggingFaceTB/SmolLM2": "llama",
    "HuggingFaceTB/SmolLM3": "smollm3",
    "google/gemma-3-270m": "gemma3_text",
    "google/gemma-3-1b": "gemma3_text",
    "google/gemma-3": "gemma3",
    "microsoft/": "phi3",
    "mistralai/": "mistral",
    "ibm-granite/": "granite",
    "allenai/": "olmo2",
}
# As their config.json says: rope_scaling is longrope, over this original window.
LONGROPE = {"microsoft/Phi-3-mini-128k-instruct": 4096, "microsoft/Phi-4-mini-instruct": 4096}
# The vision tower of the Gemma 3 sizes that have one (SigLIP at 896 pixels); it is stored with them.
VISION = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16, "image_size": 896}
VISION |= {"patch_size": 14, "vision_use_head": False}


@pytest.mark.parametrize("entry", ENTRIES)
def test_its_figures_are_those_of_the_model(entry: dict[str, Any]):
    model = _hollow(entry)
    assert sum(parameter.numel() for parameter in {id(found): found for found in model.parameters()}.values()) == entry["parameters"]
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters() if "vision" not in name}
    fused = next((shape for name, shape in shapes.items() if name.endswith("layers.0.self_attn.qkv_proj.weight")), None)
    keys = next((shape for name, shape in shapes.items() if name.endswith("layers.0.self_attn.k_proj.weight")), None)
    if fused:
        assert fused == ((entry["heads"] + 2 * entry["kvHeads"]) * entry["headDim"], entry["hidden"])
    else:
        assert keys == (entry["kvHeads"] * entry["headDim"], entry["hidden"])
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == entry["tied"]
    found, kept = Model.parse("1", entry), _quantized(model)
    assert (kept["table"], kept["wide"]) == pytest.approx((found.table, found.wide), abs=0.003 * found.parameters)


def _quantized(model: nn.Module) -> Counter[str]:
    """Weights by what becomes of them in a quantized model on a CPU: tables of bfloat16, and what stays float32; the rest is packed."""
    names = {nn.Embedding: "table", nn.Linear: "packed"}
    kept = Counter[str]()
    for module in model.modules():
        kept[names.get(type(module), "wide")] += sum(parameter.numel() for parameter in module.parameters(recurse=False))
    return kept


def test_no_window_is_longer_than_what_the_runtime_serves():
    """Rotary embeddings that depend on the longest position in the batch are served up to their original window."""
    entries = [param.values[0] for param in ENTRIES if param.values[0]["repository"] in LONGROPE]
    assert {entry["repository"] for entry in entries} == set(LONGROPE)
    for entry in entries:
        rope = {"rope_type": "longrope", "original_max_position_embeddings": LONGROPE[entry["repository"]]}
        config = AutoConfig.for_model("phi3", max_position_embeddings=131072)
        config.rope_parameters = rope
        assert loading.context_window(entry["context"], config) == entry["context"]


def test_every_entry_has_what_the_fit_counts_with():
    needed = {"repository", "parameters", "layers", "kvHeads", "headDim", "context"}
    assert not [param.id for param in ENTRIES if needed - set(param.values[0])]


def test_every_revision_is_a_commit_of_one_repository():
    pinned = {(param.values[0]["repository"], param.values[0]["revision"]) for param in ENTRIES if "revision" in param.values[0]}
    assert not [commit for _, commit in pinned if not re.fullmatch(r"[0-9a-f]{40}", commit)]
    repositories, commits = zip(*pinned, strict=True)
    assert len(set(repositories)) == len(set(commits)) == len(pinned)


def test_what_is_not_pinned_is_named_at_its_head():
    loose = [name for name, sizes in CATALOGUE.items() for entry in sizes.values() if "revision" not in entry]
    assert f"# Without a revision: {len(loose)} of {len(ENTRIES)}, {', '.join(loose)}. " in TEXT


def _hollow(entry: dict[str, Any]) -> PreTrainedModel:
    kind = next(kind for start, kind in TYPES.items() if entry["repository"].startswith(start))
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(_config(kind, entry))
    return model


def _config(kind: str, entry: dict[str, Any]) -> Any:
    values: dict[str, Any] = {
        "num_hidden_layers": entry["layers"],
        "hidden_size": entry["hidden"],
        "num_attention_heads": entry["heads"],
        "num_key_value_heads": entry["kvHeads"],
        "intermediate_size": entry["intermediate"],
        "vocab_size": entry["vocabulary"],
        "max_position_embeddings": entry["context"],
        "tie_word_embeddings": entry["tied"],
        "sliding_window": entry.get("slidingWindow"),
        "pad_token_id": 0,
    }
    if kind in ("qwen3", "qwen3_moe", "gemma3", "gemma3_text", "mistral", "llama"):
        values["head_dim"] = entry["headDim"]
    if kind == "qwen3_moe":
        experts = {"num_experts": "experts", "num_experts_per_tok": "expertsPerToken", "moe_intermediate_size": "expertIntermediate"}
        values |= {name: entry[key] for name, key in experts.items()}
    if kind == "gemma3":
        tied = values.pop("tie_word_embeddings")
        return AutoConfig.for_model(kind, text_config=values, vision_config=VISION, mm_tokens_per_image=256, tie_word_embeddings=tied)
    return AutoConfig.for_model(kind, **values)
