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


def weight_bytes(model: Model, device: str) -> int:
    """On a CPU the projection to a tied vocabulary is packed for the processor, a copy beside the embedding's."""
    return (model.parameters + (model.tied if device == "cpu" else 0)) * BYTES[device]


def estimate(model: Model, device: str, max_num_seqs: int, max_model_len: int) -> Estimate:
    weights = weight_bytes(model, device)
    overhead = OVERHEAD_FLOOR + int(weights * OVERHEAD_SHARE)
    return Estimate(max_model_len, weights, max_num_seqs * max_model_len * kv_bytes_per_token(model, device), overhead)


@dataclass(frozen=True)
class Request:
    """What is to be held: a model, how many sequences at once, and how long a window; None is the model's own, lowered to what fits."""

    model: Model
    max_num_seqs: int
    max_model_len: int | None

    def check(self) -> None:
        """Rejected when no memory would help."""
        if self.max_model_len and self.max_model_len > self.model.context:
            raise Rejected(
                "DoesNotFit", f"maxModelLen {self.max_model_len} is longer than the model's window; set at most {self.model.context}."
            )

    def wish(self, device: str) -> Estimate:
        return estimate(self.model, device, self.max_num_seqs, self.max_model_len or self.model.context)


def within(request: Request, device: str, memory: int) -> Estimate | None:
    """The estimate that fits `memory` bytes, with a shorter window where none was asked for; None when there is none."""
    wish = request.wish(device)
    if wish.total <= memory:
        return wish
    longest = longest_window(request.model, device, memory, request.max_num_seqs)
    if request.max_model_len is None and longest >= min(SHORTEST, request.model.context):
        return estimate(request.model, device, request.max_num_seqs, longest)
    return None


def refusal(request: Request, device: str, memory: int, others: tuple[str, ...]) -> Rejected:
    """What would fit; `others` are profiles that would hold it as it is."""
    wish, model, seqs = request.wish(device), request.model, request.max_num_seqs
    needs = (
        f"Needs {gib(wish.total)} (weights {gib(wish.weights)}, keys and values {gib(wish.kv_cache)}, "
        f"overhead {gib(wish.overhead)}) and the profile has {gib(memory)}. "
    )
    longest = longest_window(model, device, memory, seqs)
    ways = [f"maxModelLen {longest}"] if longest >= min(SHORTEST, model.context) else []
    window = request.max_model_len or min(SHORTEST, model.context)
    batch = (memory - wish.weights - wish.overhead) // (window * kv_bytes_per_token(model, device))
    ways += [f"maxNumSeqs {batch}"] if 0 < batch < seqs else []
    ways += [f"resourceProfile {name}" for name in others]
    way = f"What would fit: {' or '.join(ways)}." if ways else "Choose a smaller size, or ask the administrator for a bigger profile."
    return Rejected("DoesNotFit", needs + way + _in_int8(wish, device, memory))


def _in_int8(wish: Estimate, device: str, memory: int) -> str:
    """Said where it would do, and as long as the resource's `quantization` refuses it with the plain truth that it is not there yet."""
    weights = wish.weights // BYTES[device]
    total = wish.total - wish.weights + weights
    if total > memory:
        return ""
    return f" With quantization int8, which is to come, it would need about {gib(total)} (weights {gib(weights)})."


def longest_window(model: Model, device: str, memory: int, max_num_seqs: int) -> int:
    """Tokens, in steps of 16; 0 when not even the weights fit."""
    fixed = estimate(model, device, max_num_seqs, 0).total
    return min(model.context, max(0, (memory - fixed) // (max_num_seqs * kv_bytes_per_token(model, device))) // 16 * 16)
