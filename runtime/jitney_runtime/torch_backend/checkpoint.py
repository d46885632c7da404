"""The files of a model's folder: config, tokenizer, weights. A file that cannot be used becomes one sentence. Loading thread only."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from jitney_runtime.errors import JitneyError, ModelDamaged, NotSupportedYet
from jitney_runtime.progress import Progress
from jitney_runtime.torch_backend import attention

_ADVICE = "copy or download it again"


def out_of_memory(error: BaseException) -> bool:
    """Allocations and memory maps fail in as many types as there are libraries on the way."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = ("DefaultCPUAllocator", "Cannot allocate memory")
    return isinstance(error, MemoryError) or of_gpu(error) or any(word in str(error) for word in words)


def of_gpu(error: BaseException) -> bool:
    """Whether the GPU's memory is at its end: the allocator's own error, or the driver's and the libraries' below it, which have none left
    for what they need themselves."""
    words = ("CUDA error: out of memory", "CUDA_ERROR_OUT_OF_MEMORY", "ALLOC_FAILED", "CUDA out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


@contextmanager
def reading(what: str, folder: Path) -> Iterator[None]:
    """Whatever the libraries say about a file of the model becomes one sentence; running out of memory says nothing about the file."""
    try:
        yield
    except Exception as error:
        if isinstance(error, JitneyError) or out_of_memory(error):
            raise
        if isinstance(error, SafetensorError):
            raise ModelDamaged(f"{what}: {_sentence(error)}; a file is damaged, {_ADVICE}") from error
        if isinstance(error, FileNotFoundError):
            raise ModelDamaged(f"{what}: {_sentence(error)}; a file is missing, {_ADVICE}") from error
        if damaged := _no_json(folder):
            raise ModelDamaged(f"{what}: {damaged.name} is damaged, {_ADVICE}") from error
        raise NotSupportedYet(f"{what}: {_sentence(error)}") from error


def _no_json(folder: Path) -> Path | None:
    """The first file that is called so and is none: the libraries have a word of their own for it in each place."""
    for file in sorted(folder.glob("*.json")):
        try:
            json.loads(file.read_bytes())
        except ValueError:
            return file
    return None


def read_config(folder: Path, model: str, trust: bool = False) -> Any:
    """`trust`: whether code that lies beside the model may run, here as below."""
    with reading(f"transformers {transformers.__version__} cannot read the config.json of {model}", folder):
        try:
            return AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        except ValueError as error:
            if trust or "trust_remote_code" not in str(error):
                raise
            words = f"{model} can only be served by the code in its own repository: start with --trust-remote-code if you trust it"
            raise NotSupportedYet(words) from error


def read_tokenizer(folder: Path, model: str, trust: bool = False) -> Any:
    with reading(f"the tokenizer of {model} cannot be loaded", folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    if not tokenizer.encode("hello", add_special_tokens=False):
        # Without its files transformers makes an empty tokenizer and says nothing.
        raise ModelDamaged(f"{model} holds no tokenizer: put its tokenizer.json beside the weights")
    return tokenizer


def read_weights(
    folder: Path, model: str, config: Any, device: torch.device, dtype: torch.dtype, progress: Progress, trust: bool = False
) -> nn.Module:
    attention.register()
    previous = transformers.utils.logging.set_tqdm_hook(_loading_bar(progress))
    try:
        with reading(f"the weights of {model}, of type {config.model_type}, cannot be loaded", folder):
            loaded, found = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                attn_implementation=attention.NAME,
                use_safetensors=True,
                device_map={"": device},
                # Both would be filled with random numbers; the check below names them.
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=trust,
            )
    finally:
        transformers.utils.logging.set_tqdm_hook(previous)
    _refuse_holes(model, found)
    whole: nn.Module = loaded.eval().requires_grad_(False)
    return whole


def _refuse_holes(model: str, found: dict[str, Any]) -> None:
    """`found` as transformers reports it: names that are missing, and (name, shape in the file, shape by config.json) that do not fit."""
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ModelDamaged(f"{model} lacks {len(missing)} of its weights, {missing[0]} for one: {_ADVICE}")
    if found["mismatched_keys"]:
        name, is_, should_be = min(found["mismatched_keys"])
        raise ModelDamaged(f"the weights of {model} do not fit its config.json: {name} is {list(is_)} and should be {list(should_be)}")


def _loading_bar(progress: Progress) -> Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]:
    """transformers shows one bar over the tensors it loads; its position is ours to report."""

    def make(factory: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bar = factory(*args, **kwargs)
        total, advance, done = bar.total, bar.update, 0

        def update(count: int = 1) -> Any:
            nonlocal done
            done += count
            if total:
                progress.loading(min(100, 100 * done // total))
            return advance(count)

        bar.update = update
        return bar

    return make


def _sentence(error: BaseException) -> str:
    """The first sentence, or the first line if that ends sooner; a line with a colon at its end is only half of one."""
    text = re.sub(r":\s+", ": ", str(error).strip())
    return re.split(r"(?<=[.!?])\s|\n", text, maxsplit=1)[0] or type(error).__name__


def read_eos_tokens(folder: Path, config: Any, tokenizer: Any) -> frozenset[int]:
    """What generate() would stop at, and the tokenizer's own end of turn."""
    try:
        declared = GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:
        declared = config.get_text_config().eos_token_id
    found = declared if isinstance(declared, list) else [declared]
    return frozenset(int(token) for token in [*found, tokenizer.eos_token_id] if token is not None)
