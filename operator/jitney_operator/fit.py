"""Does a model fit what one pod gets: weights, keys and values of every running answer, and what the process itself needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jitney_operator.catalogue import Model
from jitney_operator.errors import Rejected
from jitney_operator.quantities import gib

# What the runtime's --dtype auto holds, weights and keys and values alike: float32 on a CPU, bfloat16 on a GPU.
BYTES = {"cpu": 4, "cuda": 2}
# A weight of a quantized linear layer, largest first: a byte and a part of its row's scale, or 4 bits and a scale and a least value per 32.
QUANTIZED = {"int8": 1 + 4 / 512, "int4": 20 / 32}
# Keys and values, and the table of a vocabulary, beside them.
NARROW = 2
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


def serves(device: str, quantization: str) -> bool:
    """Whether the runtime does, of all that the schema allows."""
    return device == "cpu" or quantization == "none"


def kv_bytes_per_token(model: Model, device: str, quantization: str = "none") -> int:
    """Keys and values of one token in all layers."""
    return 2 * model.layers * model.kv_heads * model.head_dim * (NARROW if quantization in QUANTIZED else BYTES[device])


def weight_bytes(model: Model, device: str, quantization: str = "none") -> int:
    """On a CPU the projection to a tied vocabulary is packed for the processor, a copy beside the embedding's."""
    if quantization in QUANTIZED:
        return _quantized_bytes(model, quantization)
    return (model.parameters + (model.tied if device == "cpu" else 0)) * BYTES[device]


def _quantized_bytes(model: Model, quantization: str) -> int:
    """What scores the vocabulary is int8 in both. Where its size is not known, the most that plain layers can be."""
    if not model.scores:
        return (model.parameters - model.wide) * NARROW + model.wide * BYTES["cpu"]
    layers = max(0, model.parameters - model.wide - model.table - (0 if model.tied else model.scores))
    packed = layers * QUANTIZED[quantization] + model.scores * QUANTIZED["int8"]
    return int(packed) + model.table * NARROW + model.wide * BYTES["cpu"]


def estimate(model: Model, device: str, max_num_seqs: int, max_model_len: int, quantization: str = "none") -> Estimate:
    weights = weight_bytes(model, device, quantization)
    overhead = OVERHEAD_FLOOR + int(weights * OVERHEAD_SHARE)
    kv_cache = max_num_seqs * max_model_len * kv_bytes_per_token(model, device, quantization)
    return Estimate(max_model_len, weights, kv_cache, overhead)


@dataclass(frozen=True)
class Request:
    """What is to be held: a model, how many sequences at once, and how long a window; None is the model's own, lowered to what fits.
    `quantization` is asked of devices that serve it only."""

    model: Model
    max_num_seqs: int
    max_model_len: int | None
    quantization: str = "none"

    def check(self) -> None:
        """Rejected when no memory would help."""
        if self.max_model_len and self.max_model_len > self.model.context:
            raise Rejected(
                "DoesNotFit", f"maxModelLen {self.max_model_len} is longer than the model's window; set at most {self.model.context}."
            )

    def wish(self, device: str) -> Estimate:
        return self.with_window(device, self.max_model_len or self.model.context)

    def with_window(self, device: str, max_model_len: int) -> Estimate:
        return estimate(self.model, device, self.max_num_seqs, max_model_len, self.quantization)

    def kv_bytes_per_token(self, device: str) -> int:
        return kv_bytes_per_token(self.model, device, self.quantization)


def within(request: Request, device: str, memory: int) -> Estimate | None:
    """The estimate that fits `memory` bytes, with a shorter window where none was asked for; None when there is none."""
    wish = request.wish(device)
    if wish.total <= memory:
        return wish
    longest = longest_window(request, device, memory)
    if request.max_model_len is None and longest >= min(SHORTEST, request.model.context):
        return request.with_window(device, longest)
    return None


def refusal(request: Request, device: str, memory: int, others: tuple[str, ...], cpu_memory: int = 0) -> Rejected:
    """What would fit; `others` are profiles that would hold it as it is, and `cpu_memory` bytes what it may have there quantized."""
    wish, model, seqs = request.wish(device), request.model, request.max_num_seqs
    needs = (
        f"Needs {gib(wish.total)} (weights {gib(wish.weights)}, keys and values {gib(wish.kv_cache)}, "
        f"overhead {gib(wish.overhead)}) and the profile has {gib(memory)}. "
    )
    longest = longest_window(request, device, memory)
    ways = [f"maxModelLen {longest}"] if longest >= min(SHORTEST, model.context) else []
    window = request.max_model_len or min(SHORTEST, model.context)
    batch = (memory - wish.weights - wish.overhead) // (window * request.kv_bytes_per_token(device))
    ways += [f"maxNumSeqs {batch}"] if 0 < batch < seqs else []
    ways += [f"resourceProfile {name}" for name in others]
    ways += _quantized(request, cpu_memory)
    way = f"What would fit: {' or '.join(ways)}." if ways else "Choose a smaller size, or ask the administrator for a bigger profile."
    return Rejected("DoesNotFit", needs + way)


def _quantized(request: Request, memory: int) -> list[str]:
    """The least that makes it fit; nothing where none does, or none is smaller than what is asked for."""
    for quantization, width in QUANTIZED.items():
        found = within(replace(request, quantization=quantization), "cpu", memory)
        if found and width < QUANTIZED.get(request.quantization, BYTES["cpu"]):
            window = "" if found == replace(request, quantization=quantization).wish("cpu") else f", maxModelLen {found.max_model_len}"
            return [f"quantization {quantization} ({gib(found.total)}, weights {gib(found.weights)}{window})"]
    return []


def longest_window(request: Request, device: str, memory: int) -> int:
    """Tokens, in steps of 16; 0 when not even the weights fit."""
    left = memory - request.with_window(device, 0).total
    return min(request.model.context, max(0, left // (request.max_num_seqs * request.kv_bytes_per_token(device))) // 16 * 16)
