"""Does a model fit what one pod gets: weights, keys and values of every running answer, and what the process itself needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jitney_operator.catalogue import Model
from jitney_operator.errors import Rejected
from jitney_operator.quantities import gib

# What weights are kept as: "none" where the runtime chooses, which is bfloat16, or a quantization. Where a person's flags choose: float32,
# "plain" with torch's own operators, which is float32 on a CPU and bfloat16 on a GPU, "narrow" with these and a dtype of 2 bytes. Keys and
# values, and the table of a vocabulary, are as wide as weights that are not quantized, and bfloat16 beside others.
WIDE, NARROW = 4, 2
# A weight of a quantized linear layer, largest first: a byte and a part of its row's scale, or 4 bits and a scale and a least value per 32.
QUANTIZED = {"int8": 1 + 4 / 512, "int4": 20 / 32}
# What a person leaves out, where their flags choose, for another form to hold.
WITHOUT = " without --dtype float32 or --kernel, in args or env"
# Besides, on a CPU: the runtime's two processes, torch and activations. On a GPU: CUDA's context, recorded graphs, work space of libraries
# and activations. A floor, and a share of the weights for the buffers that grow with them.
OVERHEAD_FLOOR = {"cpu": 576 * 1024**2, "cuda": 1536 * 1024**2}
OVERHEAD_SHARE = 0.05
# What a figure of the status may be off: it has two decimals.
ROUNDED = 1024**3 // 200 + 1
# Below this window no chat is worth serving.
SHORTEST = 512


@dataclass(frozen=True)
class Estimate:
    """Bytes. `total` is the sum, but for the rounding of one that is read from a status."""

    max_model_len: int
    weights: int
    kv_cache: int
    overhead: int
    total: int


def _width(form: str, device: str) -> int:
    """Of what is not quantized."""
    return WIDE if form == "float32" or (form == "plain" and device == "cpu") else NARROW


def kv_bytes_per_token(model: Model, device: str, form: str = "none") -> int:
    """Keys and values of one token in all layers."""
    return 2 * model.layers * model.kv_heads * model.head_dim * _width(form, device)


def weight_bytes(model: Model, device: str, form: str = "none") -> int:
    """What scores the vocabulary is int8 in both quantizations; where it is packed, as all is on a CPU, a tied one is a copy beside the
    table. Where its size is not known, the most that plain layers can be."""
    width = _width(form, device)
    layer, score = (QUANTIZED[form], QUANTIZED["int8"]) if form in QUANTIZED and model.scores else (width, width)
    own = 0 if model.tied else model.scores
    rest = max(0, model.parameters - model.table - own)
    wide = min(model.wide, rest)
    scores = model.scores if form in QUANTIZED or device == "cpu" else own
    delicate = min(model.delicate, rest - wide) if form == "int4" and device == "cpu" and model.scores else 0
    layers = (rest - wide - delicate) * layer + delicate * QUANTIZED["int8"]
    return int(layers + scores * score) + model.table * width + wide * (WIDE if device == "cpu" else width)


def estimate(model: Model, device: str, max_num_seqs: int, max_model_len: int, form: str = "none") -> Estimate:
    weights = weight_bytes(model, device, form)
    overhead = OVERHEAD_FLOOR[device] + int(weights * OVERHEAD_SHARE)
    kv_cache = max_num_seqs * max_model_len * kv_bytes_per_token(model, device, form)
    return Estimate(max_model_len, weights, kv_cache, overhead, weights + kv_cache + overhead)


@dataclass(frozen=True)
class Request:
    """What is to be held: a model, how many sequences at once, and how long a window; None is the model's own, lowered to what fits."""

    model: Model
    max_num_seqs: int
    max_model_len: int | None
    form: str = "none"

    def check(self) -> None:
        """Rejected when no memory would help."""
        if self.max_model_len and self.max_model_len > self.model.context:
            raise Rejected(
                "DoesNotFit", f"maxModelLen {self.max_model_len} is longer than the model's window; set at most {self.model.context}."
            )

    def wish(self, device: str) -> Estimate:
        return self.with_window(device, self.max_model_len or self.model.context)

    def with_window(self, device: str, max_model_len: int) -> Estimate:
        return estimate(self.model, device, self.max_num_seqs, max_model_len, self.form)

    def kv_bytes_per_token(self, device: str) -> int:
        return kv_bytes_per_token(self.model, device, self.form)


def within(request: Request, device: str, memory: int) -> Estimate | None:
    """The estimate that fits `memory` bytes, with a shorter window where none was asked for; None when there is none."""
    wish = request.wish(device)
    if wish.total <= memory:
        return wish
    longest = longest_window(request, device, memory)
    if request.max_model_len is None and longest >= min(SHORTEST, request.model.context):
        return request.with_window(device, longest)
    return None


def refusal(request: Request, device: str, memory: int, others: tuple[str, ...], own: bool = False) -> Rejected:
    """What would fit; `others` are profiles that would hold it as it is. `own`: the memory is the resource's own limit."""
    wish, model, seqs = request.wish(device), request.model, request.max_num_seqs
    needs = (
        f"Needs {gib(wish.total)} (weights {gib(wish.weights)}, keys and values {gib(wish.kv_cache)}, "
        f"overhead {gib(wish.overhead)}) and {'resources.limits.memory is' if own else 'the profile has'} {gib(memory)}. "
    )
    longest = longest_window(request, device, memory)
    ways = [f"maxModelLen {longest}"] if longest >= min(SHORTEST, model.context) else []
    window = request.max_model_len or min(SHORTEST, model.context)
    batch = (memory - wish.weights - wish.overhead) // (window * request.kv_bytes_per_token(device))
    ways += [f"maxNumSeqs {batch}"] if 0 < batch < seqs else []
    ways += [f"resourceProfile {name}" for name in others]
    ways += _smaller(request, device, memory)
    more = "raise resources.limits.memory" if own else "ask the administrator for a bigger profile"
    way = f"What would fit: {' or '.join(ways)}." if ways else f"Choose a smaller size, or {more}."
    return Rejected("DoesNotFit", needs + way)


def _smaller(request: Request, device: str, memory: int) -> list[str]:
    """The least that makes it fit; nothing where none does, or none is smaller than what is asked for."""
    widths = {"none": NARROW, **QUANTIZED}
    for form, width in widths.items():
        smaller = replace(request, form=form)
        found = within(smaller, device, memory)
        if found and width < widths.get(request.form, _width(request.form, device)):
            window = "" if found == smaller.wish(device) else f", maxModelLen {found.max_model_len}"
            without = "" if request.form in widths else WITHOUT
            return [f"quantization {form}{without} ({gib(found.total)}, weights {gib(found.weights)}{window})"]
    return []


def longest_window(request: Request, device: str, memory: int) -> int:
    """Tokens, in steps of 16; 0 when not even the weights fit."""
    left = memory - request.with_window(device, 0).total
    return min(request.model.context, max(0, left // (request.max_num_seqs * request.kv_bytes_per_token(device))) // 16 * 16)
