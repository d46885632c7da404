"""The operator's estimate against the memory that the runtime really takes: weights and keys and values apart, within 5 % each.

Memory is counted in bytes of the process, not timed: the machine's other work does not change it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from jitney_gateway.local import memory
from jitney_operator import fit
from jitney_operator.catalogue import Catalogue, Model
from support.models import smollm2_folder, tiny_model
from support.process import running_runtime

# The real model's own: what an interpreter takes and gives back meanwhile, some 256 KiB, is less than a hundredth of a single sequence.
WINDOW = 8192
COUNTS = (1, 2, 4, 8)
# Of the real process, which must compute what it holds: their keys and values lie far enough apart for what else an interpreter takes.
SHORT, FEW, MANY = 256, 4, 16
# Allocations of glibc go back to the system at once, so that what was freed is not counted.
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
# Tiny as models go, and large beside what an interpreter takes and gives back meanwhile.
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 512, "intermediate_size": 1400, "num_hidden_layers": 9, "vocab_size": 20_000, "num_attention_heads": 8},
    "qwen2": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 4, "vocab_size": 12_000, "tie_word_embeddings": True},
    "qwen3": {"hidden_size": 512, "head_dim": 96, "intermediate_size": 1024, "num_hidden_layers": 9, "num_attention_heads": 6},
    "gemma3_text": {"hidden_size": 640, "head_dim": 96, "intermediate_size": 1600, "num_hidden_layers": 6, "vocab_size": 12_000},
}


# Each start costs seconds: other weights than the default's on the real model, on the shape that is furthest off, and on the one with a
# table of its own.
CASES = [(kind, "none") for kind in ("smollm2", *SHAPES)] + [
    (kind, form) for kind in ("smollm2", "qwen3", "gemma3_text") for form in ("float32", *fit.QUANTIZED)
]


@pytest.mark.parametrize(("kind", "form"), CASES)
def test_the_estimate_is_what_it_takes(kind: str, form: str, tmp_path: Path):
    model, folder = (Catalogue.read().find("smollm2-instruct", "0.135"), smollm2_folder()) if kind == "smollm2" else _made(kind, tmp_path)
    taken = _footprint(folder, form)
    for count in COUNTS:
        expected = fit.estimate(model, "cpu", count, WINDOW, form)
        weights, kv_cache = taken["weights"] / expected.weights, taken["kv_cache"][str(count)] / expected.kv_cache
        print(f"{kind} {form} x {count}: weights {weights:.3f}, keys and values {kv_cache:.3f} of the estimate")
        assert 0.95 < weights < 1.05
        assert 0.95 < kv_cache < 1.05


@pytest.mark.timeout(600)
def test_the_estimate_is_what_the_process_takes(tmp_path: Path):
    """`jitney-runtime` itself, twice, when its pool is full: what more sequences take, and that all of it stays below the estimate."""
    model = Catalogue.read().find("smollm2-instruct", "0.135")
    few, many = (fit.estimate(model, "cpu", count, SHORT) for count in (FEW, MANY))
    taken = {count: _taken_when_full(tmp_path, count) for count in (FEW, MANY)}
    more = (taken[MANY] - taken[FEW]) / (many.kv_cache - few.kv_cache)
    totals = taken[FEW] / few.total, taken[MANY] / many.total
    print(f"from {FEW} to {MANY}: {more:.3f} of the estimate's keys and values; {totals[0]:.3f} and {totals[1]:.3f} of all of it")
    assert 0.95 < more < 1.05
    assert max(totals) < 1


@pytest.mark.timeout(300)
def test_a_start_in_int4_takes_no_more_than_the_estimate(tmp_path: Path):
    """While rounding is compensated for, which computes with weights as wide as they come. Keys and values of sixteen chats, as by default:
    loading itself, in int8 too, takes some 50 MB more than the estimate of a model of this size with hardly any."""
    expected = fit.estimate(Catalogue.read().find("smollm2-instruct", "0.135"), "cpu", MANY, 1024, "int4")
    arguments = ("--model", str(smollm2_folder()), "--quantization", "int4", "--device", "cpu", "--max-model-len", "1024")
    most, end, seen = 0, time.monotonic() + 240, set()
    with running_runtime(tmp_path, *arguments, "--max-num-seqs", str(MANY)) as runtime:
        while (status := runtime.ready_status()) != {"status": "ready"}:
            assert runtime.process.poll() is None, runtime.log
            assert time.monotonic() < end, runtime.log
            most = max(most, memory.taken(runtime.process.pid))
            seen.add((status or {}).get("progress", "").partition("/")[0])
            time.sleep(0.01)
    print(f"{most / expected.total:.3f} of the estimate at most, {len(seen)} steps told")
    assert sum("rounding layer" in step for step in seen) > 20
    assert most < expected.total


def _taken_when_full(folder: Path, count: int) -> int:
    """Bytes of a process whose every block of keys and values has been written."""
    folder = folder / str(count)
    folder.mkdir()
    arguments = ("--model", str(smollm2_folder()), "--served-model-name", "m", "--device", "cpu", "--max-model-len", str(SHORT))
    with running_runtime(folder, *arguments, "--max-num-seqs", str(count), **GIVEN_BACK) as runtime:
        runtime.wait_ready(240)
        # Blocks are known by what they hold and are kept, but for a prompt's last one, which is not full: a few prompts more write all.
        for number in range(count + count // 10 + 1):
            body = {"model": "m", "prompt": f"{number}" + " and" * (SHORT - 4), "max_tokens": 1, "temperature": 0}
            answer = httpx.post(f"{runtime.url}/v1/completions", json=body, timeout=120).json()
            assert SHORT - 16 < answer["usage"]["prompt_tokens"] < SHORT, answer
        return runtime.anonymous


def _made(kind: str, folder: Path) -> tuple[Model, Path]:
    made = tiny_model(kind, "sdpa", max_position_embeddings=WINDOW, **SHAPES[kind])
    made.save_pretrained(folder)
    config = made.config
    values = {"layers": config.num_hidden_layers, "kvHeads": config.num_key_value_heads, "context": WINDOW, "repository": "a/b"}
    values |= {"intermediate": config.intermediate_size, "heads": config.num_attention_heads}
    values |= {"vocabulary": config.vocab_size, "hidden": config.hidden_size, "tied": config.tie_word_embeddings}
    values |= {"scaledEmbedding": kind == "gemma3_text"}
    values |= {"headDim": made.model.layers[0].self_attn.head_dim, "parameters": sum(weight.numel() for weight in made.parameters())}
    return Model.parse("0.1", values), folder


def _footprint(folder: Path, form: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "support.footprint", str(folder), form, str(WINDOW), *map(str, COUNTS)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | GIVEN_BACK
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))
