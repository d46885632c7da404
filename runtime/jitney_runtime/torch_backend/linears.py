"""Linear layers on a CPU: weights packed once, for the kernel that is chosen on this machine.

Packing changes the order of the additions, so results differ from F.linear in the last bits, and by what rounding costs where weights are
kept as something smaller; a kernel whose output is further off than that is not used, and the log says so.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from enum import StrEnum

import torch
from torch import nn
from torch.nn.functional import linear

from jitney_runtime.torch_backend import cpu_kernels
from jitney_runtime.torch_backend.cpu_kernels import ROWS_AT_ONCE, Format

logger = logging.getLogger(__name__)

# A full batch decodes with 16 rows by default, and one chat alone with 1: a kernel is judged by both.
_TIMED_ROWS = (1, 16)
_TURNS, _TIMED_RUNS = 2, 3
# Numbers of a weight that a kernel is judged by: more than the caches hold, and a small part of the largest vocabularies, copies of which
# would be the most memory that a pod ever takes.
_JUDGED = 1 << 25
# Our own kernels bring fused parts and recorded steps, worth at least so much of a step: what is taken instead must be so much faster.
_MORE = 1.3


class PackedLinear(nn.Module):
    """A linear layer whose only copy of the weight is a packed one."""

    kernel, words = "", ""
    # Of the output, as a share of its norm, before the kernel counts as broken.
    tolerance = 1e-4

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        self.bias = source.bias
        # Of the inputs.
        self.dtype = source.weight.dtype

    @staticmethod
    def takes(source: nn.Linear) -> bool:
        """Whether this kernel computes such a layer here at all."""
        raise NotImplementedError


class OneDNNLinear(PackedLinear):
    """oneDNN's blocked weight."""

    kernel = "onednn"

    def __init__(self, source: nn.Linear) -> None:
        super().__init__(source)
        self.packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(source.weight.detach(), None)

    @staticmethod
    def takes(source: nn.Linear) -> bool:
        if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            return False
        return source.weight.dtype is not torch.float16 or bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.packed, self.bias, "none", [], "")
        return output


class NativeLinear(PackedLinear):
    """Our own kernel (kernels/linear.c): float32 in and out, whatever the weight is kept as."""

    kernel = "native"
    form = Format.FLOAT32

    def __init__(self, source: nn.Linear) -> None:
        super().__init__(source)
        self.dtype = torch.float32
        if source.bias is not None:
            self.bias = nn.Parameter(source.bias.detach().float(), requires_grad=False)
        self.packed = cpu_kernels.pack(source.weight.detach(), self.form)

    @classmethod
    def takes(cls, source: nn.Linear) -> bool:
        # A model of another float computes in it between the products as well.
        float32 = source.weight.dtype is torch.float32 or cls.form is not Format.FLOAT32
        return float32 and source.weight.device.type == "cpu" and cpu_kernels.has(cls.form)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return cpu_kernels.linear(inputs, self.packed, self.bias)


class WidenedLinear(NativeLinear):
    """Weights rounded to bfloat16, or as they are where they are that already."""

    words = "of bfloat16 weights"
    form = Format.WIDENED
    tolerance = 1e-2


class BFloat16Linear(NativeLinear):
    words = "in bfloat16"
    form = Format.BFLOAT16
    tolerance = 2e-2


class Int8Linear(NativeLinear):
    words = "in int8"
    form = Format.INT8
    tolerance = 5e-2


class Int4Linear(NativeLinear):
    words = "in int4"
    form = Format.INT4
    tolerance = 2e-1


class Precision(StrEnum):
    """What weights are kept as, and on a CPU what products are made of; everything between them is float32 there."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"
    INT4 = "int4"


# Fastest first, as far as one can know.
_KERNELS: dict[Precision, tuple[type[PackedLinear], ...]] = {
    Precision.FLOAT32: (NativeLinear, OneDNNLinear),
    Precision.BFLOAT16: (BFloat16Linear, WidenedLinear),
    Precision.INT8: (Int8Linear,),
    Precision.INT4: (Int4Linear,),
}


def choose_kernel(model: nn.Module, kernel: str, precision: Precision = Precision.FLOAT32) -> type[PackedLinear] | None:
    """The kernel for the linear layers of `model`, one for all; None keeps F.linear.

    `kernel`: "plain" takes none, "native" and "onednn" the first of theirs that passes its self-check, whatever the clock says. "auto"
    takes the fastest on this machine over all layers of a step, but ours unless torch's or oneDNN's is much faster.
    """
    shapes: Counter[tuple[int, int]] = Counter()
    samples: dict[tuple[int, int], nn.Linear] = {}
    for layer in model.modules():
        if type(layer) is nn.Linear:
            shape = (layer.out_features, layer.in_features)
            shapes[shape] += 1
            samples.setdefault(shape, _part(layer))
    candidates: list[type[PackedLinear] | None] = [None] if kernel == "auto" and precision is Precision.FLOAT32 else []
    candidates += [made for made in _KERNELS[precision] if kernel in ("auto", made.kernel) and _computes(made, samples)]
    if len(candidates) < 2 or kernel != "auto":
        best = candidates[0] if candidates else None
        logger.info("linear layers: %s", _name(best))
        return best
    seconds = _seconds(candidates, samples, shapes)
    best = min(candidates, key=lambda made: seconds[made] if made and issubclass(made, NativeLinear) else _MORE * seconds[made])
    logger.info("linear layers: %s of %s", _name(best), {_name(made): f"{1e3 * found:.1f} ms" for made, found in seconds.items()})
    return best


def _part(layer: nn.Linear) -> nn.Linear:
    """The layer, or one of its first outputs where it is large."""
    rows = max(1, _JUDGED // layer.in_features)
    if layer.out_features <= rows:
        return layer
    part = nn.Linear(layer.in_features, rows, bias=layer.bias is not None, device="meta")
    part.weight = nn.Parameter(layer.weight.detach()[:rows], requires_grad=False)
    if layer.bias is not None:
        part.bias = nn.Parameter(layer.bias.detach()[:rows], requires_grad=False)
    return part


def _computes(candidate: type[PackedLinear], samples: dict[tuple[int, int], nn.Linear]) -> bool:
    """Whether it takes such layers here, and rightly."""
    for shape, layer in samples.items():
        if not candidate.takes(layer):
            return False
        if not is_right(layer, candidate(layer)):
            logger.warning("the %s kernel failed its self-check for a %dx%d layer and is not used", _name(candidate), *shape)
            return False
    return True


def _name(kernel: type[PackedLinear] | None) -> str:
    return f"{kernel.kernel} {kernel.words}".strip() if kernel else "plain"


def pack_linears(model: nn.Module, kernel: type[PackedLinear], special: dict[int, type[PackedLinear]]) -> None:
    """Replace the linear layers of `model` in place, by id with the kernel in `special` or else with `kernel`.

    A tied weight stays with the embedding, and the packed copy is one more.
    """
    for name, child in list(model.named_children()):
        # One at a time, so that a weight is freed before the next is packed.
        if type(child) is nn.Linear:
            setattr(model, name, special.get(id(child), kernel)(child))
        else:
            pack_linears(child, kernel, special)


def _inputs(layer: nn.Linear | PackedLinear, rows: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, layer.in_features, generator=torch.Generator().manual_seed(0)).to(dtype)


def is_right(layer: nn.Linear, packed: PackedLinear) -> bool:
    """Against float64, by the norm of the error; finite and exact in shape by the way."""
    tolerance = packed.tolerance if packed.dtype is torch.float32 else 3e-2
    for rows in _TIMED_ROWS:
        inputs = _inputs(layer, rows, packed.dtype)
        wanted = torch.cat([linear(inputs.double(), part.double()) for part in torch.split(layer.weight, ROWS_AT_ONCE)], dim=-1)
        if layer.bias is not None:
            wanted += layer.bias.double()
        if not float((packed(inputs).double() - wanted).norm()) <= tolerance * float(wanted.norm()):
            return False
    return True


def _seconds(
    candidates: list[type[PackedLinear] | None], samples: dict[tuple[int, int], nn.Linear], shapes: Counter[tuple[int, int]]
) -> dict[type[PackedLinear] | None, float]:
    """Of all layers, with one row and with a full batch together, the best run of each.

    The candidates take turns, so that what else the machine does for a moment is not in all runs of one. A turn is several runs, the first
    of which does not count, because the threads of the one before still wait for more.
    """
    seconds = dict.fromkeys(candidates, 0.0)
    for shape, layer in samples.items():
        made = {candidate: layer if candidate is None else candidate(layer) for candidate in candidates}
        for rows in _TIMED_ROWS:
            best = dict.fromkeys(candidates, float("inf"))
            for candidate, module in [*made.items()] * _TURNS:
                inputs = _inputs(layer, rows, module.dtype if isinstance(module, PackedLinear) else module.weight.dtype)
                module(inputs)
                for _ in range(_TIMED_RUNS):
                    started = time.perf_counter()
                    module(inputs)
                    best[candidate] = min(best[candidate], time.perf_counter() - started)
            for candidate in candidates:
                seconds[candidate] += shapes[shape] * best[candidate] * shape[0] / layer.out_features
    return seconds
