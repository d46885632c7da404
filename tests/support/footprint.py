"""Run as a process: what the runtime's own loading takes of this machine's memory, weights and keys and values apart.

`python -m support.footprint FOLDER FORM WINDOW SEQS...` prints {"weights": bytes, "kv_cache": {SEQS: bytes}}. FORM is float32 or a
quantization, of which none is what the runtime chooses.
"""

# ruff: noqa: E402
from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path

import torch

from jitney_runtime.torch_backend.lean import import_transformers

# As the runtime's process begins.
import_transformers()

from jitney_runtime.progress import Progress
from jitney_runtime.settings import RuntimeSettings
from jitney_runtime.torch_backend import loading
from jitney_runtime.torch_backend.checkpoint import read_config, read_weights
from jitney_runtime.torch_backend.cpu_model import use_kernels
from jitney_runtime.torch_backend.linears import Precision
from jitney_runtime.torch_backend.runner import TorchRunner
from support.process import anonymous_memory

CPU = torch.device("cpu")
_PR_SET_THP_DISABLE = 41


def main() -> None:
    # A large page counts whole once it is begun, where the system gives them to everybody: 2 MiB are a third of a tiny model's keys.
    assert ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0
    folder, form, window, *counts = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
    asked = {"dtype": "float32"} if form == "float32" else {"quantization": form}
    precision = loading.choose_precision(RuntimeSettings("m", "m", **asked), CPU)  # type: ignore[arg-type]
    kept = torch.float32 if precision is Precision.FLOAT32 else torch.bfloat16
    _load(folder, precision)
    before = _anonymous()
    model = _load(folder, precision)
    for weight in model.parameters():
        # What is still read from the mapped file is not anonymous, and as much needed.
        weight.data = weight.data.clone()
    weights = _anonymous() - before
    with torch.inference_mode():
        runner = TorchRunner(model, CPU, kept, 16)
        # The first time also takes what stays: the layers' wrappers, the kernels' first pages.
        _kv_cache(runner, RuntimeSettings("m", "m", max_num_seqs=counts[0], max_model_len=window))
        kv_cache = {count: _kv_cache(runner, RuntimeSettings("m", "m", max_num_seqs=count, max_model_len=window)) for count in counts}
    print(json.dumps({"weights": weights, "kv_cache": kv_cache}))


def _load(folder: Path, precision: Precision) -> torch.nn.Module:
    config = read_config(folder, "m")
    stored = torch.float32 if precision is Precision.FLOAT32 else loading._stored(config)
    model = read_weights(folder, "m", config, CPU, stored, Progress())
    use_kernels(model, "native", precision)
    return model


def _kv_cache(runner: TorchRunner, settings: RuntimeSettings) -> int:
    # Whoever holds the memory of the time before, such as a recorded step, lets go of it with the next: here, of a single block.
    runner.allocate(1)
    before = _anonymous()
    runner.allocate(loading._scheduler(settings, runner.model.config, runner, frozenset()).pool.count)
    for cache in runner.attention.caches:
        cache.keys.fill_(1)
        cache.values.fill_(1)
    return _anonymous() - before


def _anonymous() -> int:
    """Without what is freed and not given back yet."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return anonymous_memory()


if __name__ == "__main__":
    main()
