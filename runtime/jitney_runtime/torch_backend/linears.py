"""Linear layers on a CPU: weights packed once for oneDNN where that is faster on this machine.

Packing changes the order of the additions, so results differ from F.linear in the last bits; a layer whose packed output is further off
than that is not used, and the log says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

logger = logging.getLogger(__name__)

_TIMED_ROWS = 16
_TIMED_RUNS = 5


class PackedLinear(nn.Module):
    """A linear layer whose only copy of the weight is oneDNN's blocked one."""

    def __init__(self, source: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        self.packed = pack(source.weight.detach())
        self.bias = source.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return packed_linear(inputs, self.packed, self.bias)


def pack(weight: torch.Tensor) -> torch.Tensor:
    """[out, in] -> an opaque blocked tensor, for batches of any size."""
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


def packed_linear(inputs: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    output: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return output


def pack_linears(model: nn.Module, kernel: str) -> int:
    """Replace the linear layers of `model` in place where packing pays; the number replaced.

    `kernel`: "plain" replaces none, "onednn" all that pass the self-check, "auto" those that are also faster on this machine. A tied weight
    stays with the embedding, and the packed copy is one more.
    """
    if kernel == "plain" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return 0
    verdicts: dict[tuple[int, int], bool] = {}
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not nn.Linear:
                continue
            shape = (child.out_features, child.in_features)
            if shape not in verdicts:
                verdicts[shape] = _worth_packing(child, kernel)
            if verdicts[shape]:
                setattr(parent, name, PackedLinear(child))
                replaced += 1
    logger.info(
        "linear layers: %d packed for oneDNN, shapes %s",
        replaced,
        {f"{o}x{i}": "packed" if v else "plain" for (o, i), v in verdicts.items()},
    )
    return replaced


def _worth_packing(layer: nn.Linear, kernel: str) -> bool:
    weight, bias = layer.weight.detach(), layer.bias
    inputs = torch.randn(_TIMED_ROWS, layer.in_features, dtype=weight.dtype, generator=torch.Generator().manual_seed(0))
    packed = pack(weight)
    plain, other = linear(inputs, weight, bias), packed_linear(inputs, packed, bias)
    tolerance = 1e-4 if weight.dtype is torch.float32 else 3e-2
    if not torch.allclose(plain, other, rtol=tolerance, atol=tolerance * float(plain.abs().max())):
        logger.warning("oneDNN's packed %dx%d layer failed its self-check on this machine and is not used", *weight.shape)
        return False
    return kernel == "onednn" or _seconds(packed_linear, inputs, packed, bias) < _seconds(linear, inputs, weight, bias)


def _seconds(function: Callable[..., torch.Tensor], *arguments: Any) -> float:
    """The best of a few runs after one to warm up."""
    function(*arguments)
    best = float("inf")
    for _ in range(_TIMED_RUNS):
        started = time.perf_counter()
        function(*arguments)
        best = min(best, time.perf_counter() - started)
    return best
