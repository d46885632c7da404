"""From settings to a warmed-up model: device, weights, KV memory, tokenizer. Before the engine's thread; every failure is a StartError."""

from __future__ import annotations

import gc
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jitney_runtime.engine.block_pool import BlockPool
from jitney_runtime.engine.model_runner import ScheduledBatch, ScheduledRow
from jitney_runtime.engine.pace import Pace
from jitney_runtime.engine.scheduler import Scheduler
from jitney_runtime.engine.sequence import SamplingParams
from jitney_runtime.errors import DeviceNotFound, GPUOutOfMemory, JitneyError, NotSupportedYet, OutOfMemory, StartError
from jitney_runtime.heap import give_back
from jitney_runtime.progress import Progress
from jitney_runtime.settings import RuntimeSettings
from jitney_runtime.torch_backend import cpu_kernels
from jitney_runtime.torch_backend.checkpoint import (
    of_gpu,
    out_of_memory,
    read_config,
    read_eos_tokens,
    read_tokenizer,
    read_weights,
    reading,
)
from jitney_runtime.torch_backend.compensation import calibration
from jitney_runtime.torch_backend.cpu_kernels import Format
from jitney_runtime.torch_backend.cpu_model import use_kernels
from jitney_runtime.torch_backend.cuda_model import use_cuda
from jitney_runtime.torch_backend.hub import model_folder
from jitney_runtime.torch_backend.kv_cache import bytes_per_token
from jitney_runtime.torch_backend.linears import Precision
from jitney_runtime.torch_backend.memory import for_keys_and_values
from jitney_runtime.torch_backend.runner import TorchRunner
from jitney_runtime.torch_backend.threads import thread_count

logger = logging.getLogger(__name__)

_DEFAULT_CONTEXT = 2048
# Rotary embeddings whose frequencies depend on the longest position in the batch: a neighbour would change answers.
_BATCH_DEPENDENT_ROPE = ("dynamic", "longrope")


@dataclass(frozen=True)
class LoadedModel:
    """Everything the server needs: the policy's scheduler, the runner, the tokenizer, and the folder that it came from."""

    scheduler: Scheduler
    runner: TorchRunner
    tokenizer: Any
    folder: Path


def load(settings: RuntimeSettings, progress: Progress) -> LoadedModel:
    """Load, size, warm up. Raises StartError with the sentence for the resource."""
    started = time.perf_counter()
    try:
        return _load(settings, progress, started)
    except JitneyError:
        raise
    except Exception as error:
        if of_gpu(error):
            raise GPUOutOfMemory(_gpu_advice(settings, error)) from error
        if out_of_memory(error):
            raise OutOfMemory(f"not enough memory for {settings.model}: lower maxNumSeqs or maxModelLen, or give the pod more") from error
        raise


def _gpu_advice(settings: RuntimeSettings, error: Exception) -> str:
    detail = "; ".join(str(error).split(". ")[1:2]) or "CUDA out of memory"
    return (
        f"the GPU is too small for {settings.model} with maxNumSeqs {settings.max_num_seqs}: lower maxNumSeqs or maxModelLen, or "
        f"take a bigger profile ({detail})"
    )


def _load(settings: RuntimeSettings, progress: Progress, started: float) -> LoadedModel:
    device = choose_device(settings.device)
    if device.type == "cpu":
        torch.set_num_threads(thread_count())
    precision = choose_precision(settings, device)
    trust = settings.trust_remote_code
    folder = model_folder(settings.model, settings.revision, progress, trust)
    progress.loading(0)
    config = read_config(folder, settings.model, trust)
    if settings.quantization != "none" and getattr(config, "quantization_config", None):
        advice = "set quantization to none (on a CPU, of fp8), or take the checkpoint that is not quantized"
        raise NotSupportedYet(f"{settings.model} is quantized already: {advice}")
    tokenizer = read_tokenizer(folder, settings.model, trust)
    # On a CPU, weights that are packed as something smaller are read as they are, and keys and values are half as large; what is computed
    # between the products is float32.
    packed = device.type == "cpu" and precision is not Precision.FLOAT32
    dtype = torch.float32 if packed else choose_dtype(settings.dtype, device)
    stored = _stored(config) if packed else dtype
    # What is to become smaller comes to the GPU layer by layer.
    at = device if precision is Precision.FLOAT32 else torch.device("cpu")
    model = read_weights(folder, settings.model, config, at, stored, progress, trust)
    if device.type == "cpu":
        window = context_window(None, config)
        precision = use_kernels(model, settings.kernel, precision, lambda: calibration(tokenizer, window), progress.rounding)
    else:
        use_cuda(model, settings.kernel, precision, device)
    # Not what was chosen before: where no kernel of ours computes rightly, all is float32.
    kept = torch.bfloat16 if device.type == "cpu" and precision is not Precision.FLOAT32 else dtype
    gc.collect()
    give_back()
    progress.warming_up()
    with torch.inference_mode():
        with reading(f"models of type {config.model_type} cannot be served", folder):
            runner = TorchRunner(model, device, kept, settings.block_size, settings.kernel)
        scheduler = _scheduler(settings, config, runner, read_eos_tokens(folder, config, tokenizer))
        longest = -(-scheduler.max_model_len // settings.block_size)
        runner.allocate(scheduler.pool.count, scheduler.max_num_seqs, longest, scheduler.token_budget)
        _warm_up(runner, scheduler)
        runner.record()
    logger.info(
        "loaded %s in %.1f s on %s as %s: context %d, %d blocks of %d tokens, %d threads",
        *(
            settings.model,
            time.perf_counter() - started,
            device,
            dtype if precision is Precision.FLOAT32 else precision,
            scheduler.max_model_len,
            scheduler.pool.count,
            settings.block_size,
            torch.get_num_threads(),
        ),
    )
    return LoadedModel(scheduler, runner, tokenizer, folder)


def choose_device(wanted: str) -> torch.device:
    """`auto` takes a GPU when there is one; `cuda` without one is DeviceNotFound, never the CPU in silence."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise DeviceNotFound("this pod was asked to use a GPU and CUDA finds none: check the node's driver and the device plugin")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Of a model whose weights are kept as they are computed with."""
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]


def choose_precision(settings: RuntimeSettings, device: torch.device) -> Precision:
    """What weights are kept as; FLOAT32 stands for the model's own dtype where no kernels of ours are used for products."""
    if device.type == "cuda":
        return _precision_on_cuda(settings, device)
    native = device.type == "cpu" and settings.kernel in ("auto", "native") and cpu_kernels.has(Format.WIDENED)
    if settings.quantization != "none":
        if not native:
            raise NotSupportedYet(
                f"quantization {settings.quantization} needs a CPU with AVX2 and this runtime's own kernels: use none here"
            )
        return Precision(settings.quantization)
    return Precision.BFLOAT16 if native and settings.dtype in ("auto", "bfloat16") else Precision.FLOAT32


def _precision_on_cuda(settings: RuntimeSettings, device: torch.device) -> Precision:
    if settings.quantization == "none":
        return Precision.FLOAT32
    if torch.cuda.get_device_capability(device) < (8, 0):
        raise NotSupportedYet(
            f"quantization {settings.quantization} needs a GPU of compute capability 8.0 or later, such as an A10 or L4: use none here"
        )
    if settings.dtype == "float32":
        raise NotSupportedYet(f"quantization {settings.quantization} on a GPU computes in bfloat16 or float16: leave --dtype at auto")
    return Precision(settings.quantization)


def _stored(config: Any) -> torch.dtype:
    """The dtype of the checkpoint, as far as it says one."""
    stored = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    return stored if stored in (torch.bfloat16, torch.float16) else torch.float32


def _scheduler(settings: RuntimeSettings, config: Any, runner: TorchRunner, eos_tokens: frozenset[int]) -> Scheduler:
    """Size the context window and the pool: full use if it fits, else what does, and say so."""
    size = settings.block_size
    block_bytes = size * bytes_per_token(runner.layer_shapes, runner.dtype)
    context = context_window(settings.max_model_len, config)
    full = settings.max_num_seqs * -(-context // size)
    budget = settings.kv_cache_memory or for_keys_and_values(runner.device, settings.memory_share)
    blocks = min(full, budget // block_bytes)
    fitting = min(context, blocks * size)
    if blocks < 1 or (settings.max_model_len and fitting < context):
        error: type[StartError] = GPUOutOfMemory if runner.device.type == "cuda" else OutOfMemory
        needed = -(-context // size) * block_bytes
        raise error(
            f"keys and values of one sequence of {context} tokens take {needed / 1e9:.2f} GB and {budget / 1e9:.2f} GB are left for them: "
            "lower maxModelLen or give the pod more memory"
        )
    if fitting < context:
        logger.warning("the context window is lowered from %d to %d tokens, which is what the memory left holds", context, fitting)
    return Scheduler(
        BlockPool(blocks, size, settings.prefix_cache), settings.max_num_seqs, settings.token_budget, fitting, eos_tokens, Pace()
    )


def context_window(wanted: int | None, config: Any) -> int:
    """The context in tokens: the model's own, or less. More than the model's own is refused."""
    text = config.get_text_config()
    own = int(getattr(text, "max_position_embeddings", None) or _DEFAULT_CONTEXT)
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") in _BATCH_DEPENDENT_ROPE:
        original = rope.get("original_max_position_embeddings") or getattr(text, "original_max_position_embeddings", None) or own
        own = min(own, int(original))
    if wanted is not None and wanted > own:
        raise NotSupportedYet(f"maxModelLen {wanted} is more than the {own} tokens this model is served with: lower it or leave it out")
    return wanted or own


def _warm_up(runner: TorchRunner, scheduler: Scheduler) -> None:
    """Prompts and a full batch of decodes, so that the first request meets warm kernels and steps that are recorded already. The blocks it
    writes are overwritten later."""
    params = SamplingParams(max_tokens=1)
    length = min(runner.block_size, scheduler.max_model_len)
    # Different ones: what is proven by these steps would hold of a token whose embedding is nothing, whatever a model makes of it.
    ids = [number % runner.vocabulary for number in range(length + scheduler.max_num_seqs)]
    prompt = ScheduledRow("warm-up", tuple(ids[:length]), 0, (0,), True, params, 0)
    decode, *more = (ScheduledRow("warm-up", (token,), length - 1, (0,), True, params, 0) for token in ids[length:])
    for rows in ((prompt,), (prompt, decode), (decode,), (decode, *more)):
        runner.run(ScheduledBatch(rows))
