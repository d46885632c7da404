"""Linear layers on a CPU: weights packed once, for the kernel that is fastest on this machine.

Packing changes the order of the additions, so results differ from F.linear in the last bits; a kernel whose output is further off than that
is not used, and the log says so.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import linear

from jitney_runtime.torch_backend import cpu_kernels

logger = logging.getLogger(__name__)

# A full batch decodes with 16 rows by default, and one chat alone with 1: a kernel is judged by both.
_TIMED_ROWS = (1, 16)
_TIMED_RUNS = 5


class PackedLinear(nn.Module):
    """A linear layer whose only copy of the weight is a packed one."""

    kernel = ""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        self.bias = source.bias
        self.packed = self.pack(source.weight.detach())

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """[out, in] -> an opaque tensor, for batches of any size."""
        raise NotImplementedError

    @staticmethod
    def takes(source: nn.Linear) -> bool:
        """Whether this kernel computes such a layer here at all."""
        raise NotImplementedError


class OneDNNLinear(PackedLinear):
    """oneDNN's blocked weight."""

    kernel = "onednn"

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        return packed

    @staticmethod
    def takes(source: nn.Linear) -> bool:
        return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.packed, self.bias, "none", [], "")
        return output


class NativeLinear(PackedLinear):
    """Our own kernel (kernels/linear.c), float32."""

    kernel = "native"

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        return cpu_kernels.pack(weight)

    @staticmethod
    def takes(source: nn.Linear) -> bool:
        return source.weight.dtype is torch.float32 and cpu_kernels.available()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return cpu_kernels.linear(inputs, self.packed, self.bias, self.out_features)


_KERNELS: tuple[type[PackedLinear], ...] = (NativeLinear, OneDNNLinear)


def choose_kernel(model: nn.Module, kernel: str) -> type[PackedLinear] | None:
    """The kernel for the linear layers of `model`, one for all; None keeps F.linear.

    `kernel`: "plain" takes none, "native" and "onednn" that one if it passes its self-check, "auto" what is fastest on this machine over
    all layers of a step.
    """
    shapes: Counter[tuple[int, int]] = Counter()
    samples: dict[tuple[int, int], nn.Linear] = {}
    for layer in model.modules():
        if type(layer) is nn.Linear:
            shape = (layer.out_features, layer.in_features)
            shapes[shape] += 1
            samples.setdefault(shape, layer)
    seconds: dict[type[PackedLinear] | None, float] = {}
    if kernel == "auto":
        seconds[None] = sum(count * _seconds(samples[shape]) for shape, count in shapes.items())
    for candidate in _KERNELS:
        if kernel in ("auto", candidate.kernel) and (found := _judge(candidate, samples, shapes)) is not None:
            seconds[candidate] = found
    best = min(seconds, key=lambda made: seconds[made], default=None)
    logger.info("linear layers: %s of %s", _name(best), {_name(made): f"{1e3 * found:.1f} ms" for made, found in seconds.items()})
    return best


def _judge(candidate: type[PackedLinear], samples: dict[tuple[int, int], nn.Linear], shapes: Counter[tuple[int, int]]) -> float | None:
    """Seconds for all layers; None for a kernel that does not compute them, or not rightly."""
    total = 0.0
    for shape, layer in samples.items():
        if not candidate.takes(layer):
            return None
        packed = candidate(layer)
        if not _right(layer, packed):
            logger.warning("the %s kernel failed its self-check for a %dx%d layer and is not used", candidate.kernel, *shape)
            return None
        total += shapes[shape] * _seconds(packed)
    return total


def _name(kernel: type[PackedLinear] | None) -> str:
    return kernel.kernel if kernel else "plain"


def pack_linears(model: nn.Module, kernel: type[PackedLinear]) -> None:
    """Replace the linear layers of `model` in place. A tied weight stays with the embedding, and the packed copy is one more."""
    for name, child in list(model.named_children()):
        # One at a time, so that a weight is freed before the next is packed.
        if type(child) is nn.Linear:
            setattr(model, name, kernel(child))
        else:
            pack_linears(child, kernel)


def _inputs(layer: nn.Linear | PackedLinear, rows: int) -> torch.Tensor:
    dtype = layer.weight.dtype if isinstance(layer, nn.Linear) else layer.packed.dtype
    return torch.randn(rows, layer.in_features, generator=torch.Generator().manual_seed(0)).to(dtype)


def _right(layer: nn.Linear, packed: PackedLinear) -> bool:
    tolerance = 1e-4 if layer.weight.dtype is torch.float32 else 3e-2
    for rows in _TIMED_ROWS:
        inputs = _inputs(layer, rows)
        plain = linear(inputs, layer.weight, layer.bias)
        if not torch.allclose(plain, packed(inputs), rtol=tolerance, atol=tolerance * float(plain.abs().max())):
            return False
    return True


def _seconds(layer: nn.Linear | PackedLinear) -> float:
    """One row and a full batch together, the best of a few runs each."""
    return sum(_best(layer, _inputs(layer, rows)) for rows in _TIMED_ROWS)


def _best(function: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> float:
    function(inputs)
    best = float("inf")
    for _ in range(_TIMED_RUNS):
        started = time.perf_counter()
        function(inputs)
        best = min(best, time.perf_counter() - started)
    return best
