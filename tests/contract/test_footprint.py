"""The operator's estimate against the memory that the runtime really takes: weights and keys and values apart, within 5 % each.

Memory is counted in bytes of the process, not timed: the machine's other work does not change it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jitney_operator import fit
from jitney_operator.catalogue import Catalogue, Model
from support.models import smollm2_folder, tiny_model

WINDOW = 256
COUNTS = (1, 4, 16, 40)
# Tiny as models go, and large beside what an interpreter takes and gives back meanwhile.
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 512, "intermediate_size": 1400, "num_hidden_layers": 6, "vocab_size": 20_000, "num_attention_heads": 8},
    "qwen2": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 4, "vocab_size": 12_000, "tie_word_embeddings": True},
    "qwen3": {"hidden_size": 512, "head_dim": 96, "intermediate_size": 1024, "num_hidden_layers": 9, "num_attention_heads": 6},
    "gemma3_text": {"hidden_size": 640, "head_dim": 96, "intermediate_size": 1600, "num_hidden_layers": 6, "vocab_size": 12_000},
}


# Each start costs seconds: smaller weights on the real model, on the shape that is furthest off, and on the one with a table of its own.
CASES = [(kind, "none") for kind in ("smollm2", *SHAPES)] + [
    (kind, quantization) for kind in ("smollm2", "qwen3", "gemma3_text") for quantization in fit.QUANTIZED
]


@pytest.mark.parametrize(("kind", "quantization"), CASES)
def test_the_estimate_is_what_it_takes(kind: str, quantization: str, tmp_path: Path):
    model, folder = (Catalogue.read().find("smollm2-instruct", "0.135"), smollm2_folder()) if kind == "smollm2" else _made(kind, tmp_path)
    taken = _footprint(folder, quantization)
    for count in COUNTS:
        expected = fit.estimate(model, "cpu", count, WINDOW, quantization)
        weights, kv_cache = taken["weights"] / expected.weights, taken["kv_cache"][str(count)] / expected.kv_cache
        print(f"{kind} {quantization} x {count}: weights {weights:.3f}, keys and values {kv_cache:.3f} of the estimate")
        assert 0.95 < weights < 1.05
        assert 0.95 < kv_cache < 1.05


def _made(kind: str, folder: Path) -> tuple[Model, Path]:
    made = tiny_model(kind, "sdpa", **SHAPES[kind])
    made.save_pretrained(folder)
    config = made.config
    values = {"layers": config.num_hidden_layers, "kvHeads": config.num_key_value_heads, "context": 256, "repository": "a/b"}
    values |= {"vocabulary": config.vocab_size, "hidden": config.hidden_size, "tied": config.tie_word_embeddings}
    values |= {"scaledEmbedding": kind == "gemma3_text"}
    values |= {"headDim": made.model.layers[0].self_attn.head_dim, "parameters": sum(weight.numel() for weight in made.parameters())}
    return Model.parse("0.1", values), folder


def _footprint(folder: Path, quantization: str) -> dict[str, Any]:
    """Allocations of glibc go back to the system at once, so that what was freed is not counted."""
    command = [sys.executable, "-m", "support.footprint", str(folder), quantization, str(WINDOW), *map(str, COUNTS)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))
