"""Does a model fit what one pod gets: weights, keys and values of every running answer, and what the process itself needs."""

from __future__ import annotations

from dataclasses import dataclass

from jitney_operator.catalogue import Model
from jitney_operator.errors import Rejected
from jitney_operator.quantities import gib

# What the runtime's --dtype auto holds, weights and keys and values alike: float32 on a CPU, bfloat16 on a GPU.
BYTES = {"cpu": 4, "cuda": 2}
# Interpreter, torch and activations: a floor, and a share of the weights for the buffers that grow with them.
OVERHEAD_FLOOR = 512 * 1024**2
OVERHEAD_SHARE = 0.05
# Below this window no chat is worth serving.
SHORTEST = 512


@dataclass(frozen=True)
class Estimate:
    """Bytes."""

    max_model_len: int
    weights: int
    kv_cache: int
    overhead: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.overhead


def kv_bytes_per_token(model: Model, device: str) -> int:
    """Keys and values of one token in all layers."""
    return 2 * model.layers * model.kv_heads * model.head_dim * BYTES[device]


def estimate(model: Model, device: str, max_num_seqs: int, max_model_len: int) -> Estimate:
    weights = model.parameters * BYTES[device]
    overhead = OVERHEAD_FLOOR + int(weights * OVERHEAD_SHARE)
    return Estimate(max_model_len, weights, max_num_seqs * max_model_len * kv_bytes_per_token(model, device), overhead)


def check(model: Model, device: str, memory: int, max_num_seqs: int, max_model_len: int | None) -> Estimate:
    """The estimate that fits `memory` bytes; without a wish the window is lowered to what fits. Rejected says what would fit."""
    wish = estimate(model, device, max_num_seqs, max_model_len or model.context)
    if max_model_len and max_model_len > model.context:
        raise Rejected("DoesNotFit", f"maxModelLen {max_model_len} is longer than the model's window; set at most {model.context}.")
    if wish.total <= memory:
        return wish
    longest = longest_window(model, device, memory, max_num_seqs)
    if max_model_len is None and longest >= min(SHORTEST, model.context):
        return estimate(model, device, max_num_seqs, longest)
    raise Rejected("DoesNotFit", _advice(model, device, wish, memory, max_num_seqs, longest))


def longest_window(model: Model, device: str, memory: int, max_num_seqs: int) -> int:
    """Tokens, in steps of 16; 0 when not even the weights fit."""
    fixed = estimate(model, device, max_num_seqs, 0).total
    return min(model.context, max(0, (memory - fixed) // (max_num_seqs * kv_bytes_per_token(model, device))) // 16 * 16)


def _advice(model: Model, device: str, wish: Estimate, memory: int, max_num_seqs: int, longest: int) -> str:
    needs = (
        f"Needs {gib(wish.total)} (weights {gib(wish.weights)}, keys and values {gib(wish.kv_cache)}, "
        f"overhead {gib(wish.overhead)}) and the profile has {gib(memory)}. "
    )
    fixed = wish.weights + wish.overhead
    if fixed >= memory:
        return needs + "Choose a smaller size or a profile with more memory."
    batch = (memory - fixed) // (wish.max_model_len * kv_bytes_per_token(model, device))
    ways = [f"maxModelLen {longest}"] if longest >= SHORTEST else []
    ways += [f"maxNumSeqs {batch}"] if 0 < batch < max_num_seqs else []
    return needs + f"What would fit: {' or '.join([*ways, 'a profile with more memory'])}."
