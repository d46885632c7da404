"""A loaded model made ready for a GPU: what is fused, and weights of 8 or 4 bits."""

from __future__ import annotations

import logging

import torch
from torch import nn
from torch.nn.functional import linear

from jitney_runtime.errors import NotSupportedYet
from jitney_runtime.kernels.cuda.program import CompileError
from jitney_runtime.torch_backend import cuda_elementwise
from jitney_runtime.torch_backend.cuda_linears import OUTS_AT_ONCE, QuantizedLinear
from jitney_runtime.torch_backend.fusions import fuse
from jitney_runtime.torch_backend.linears import Precision

logger = logging.getLogger(__name__)

_BITS = {Precision.INT8: 8, Precision.INT4: 4}
_CHECKED_ROWS = (1, 17, 64, 80)
# Of the output, as a share of its norm, before a kernel counts as broken: what rounding costs, and some more.
_TOLERANCE = {8: 5e-2, 4: 2e-1}


@torch.no_grad()
def use_cuda(model: nn.Module, kernel: str, precision: Precision, device: torch.device) -> None:
    """Change `model` in place; it is on `device` afterwards. `kernel` "plain" fuses nothing. Raises NotSupportedYet.

    A model whose linear layers get 8 or 4 bits comes from elsewhere, and one layer after the other: no more than one of them is ever on the
    device as it was.
    """
    bits = _BITS.get(precision)
    if bits is not None:
        _check(model, precision, bits, device)

    def product(layer: nn.Linear) -> nn.Module:
        return QuantizedLinear(layer, bits, device) if bits is not None and QuantizedLinear.takes(layer) else layer.to(device)

    if kernel != "plain" and cuda_elementwise.available(device):
        fuse(model, product, device)
    if bits is not None:
        _replace(model, _widths(model, bits), device)
        logger.info("linear layers: %s", precision)
    model.to(device)


def _widths(model: nn.Module, bits: int) -> dict[int, int]:
    """Bits by the id of the layer. The scores of the vocabulary decide between tokens, and 4 are too few for them."""
    found = {id(layer): bits for layer in model.modules() if type(layer) is nn.Linear and QuantizedLinear.takes(layer)}
    output = model.get_output_embeddings()  # type: ignore[operator]
    return found | ({id(output): 8} if id(output) in found else {})


def _replace(module: nn.Module, bits: dict[int, int], device: torch.device) -> None:
    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear) and id(child) in bits:
            setattr(module, name, QuantizedLinear(child, bits[id(child)], device))
        else:
            _replace(child, bits, device)


def _check(model: nn.Module, precision: Precision, bits: int, device: torch.device) -> None:
    """One layer of each shape, against the product of what its weights were."""
    refused = f"quantization {precision} has no kernel that computes this model rightly on this GPU: set quantization to none"
    widths, seen = _widths(model, bits), set()
    for layer in model.modules():
        if not isinstance(layer, nn.Linear) or id(layer) not in widths or (shape := (*layer.weight.shape, widths[id(layer)])) in seen:
            continue
        seen.add(shape)
        # The first outputs of a whole vocabulary say as much as all.
        part = nn.Linear(layer.in_features, min(layer.out_features, OUTS_AT_ONCE), bias=False, device="meta")
        part.weight = nn.Parameter(layer.weight[:OUTS_AT_ONCE], requires_grad=False)
        try:
            if not is_right(part, QuantizedLinear(part, widths[id(layer)], device), device):
                raise NotSupportedYet(refused)
        except (CompileError, OSError) as error:
            raise NotSupportedYet(f"{refused} ({error})") from error


def is_right(layer: nn.Linear, quantized: QuantizedLinear, device: torch.device) -> bool:
    """By the norm of the error, with few rows and with many."""
    weight = layer.weight.to(device).float()
    generator = torch.Generator(device).manual_seed(0)
    for rows in _CHECKED_ROWS:
        inputs = torch.randn(rows, layer.in_features, generator=generator, device=device).to(quantized.dtype)
        wanted = linear(inputs.float(), weight)
        if not float((quantized(inputs).float() - wanted).norm()) <= _TOLERANCE[quantized.packed.bits] * float(wanted.norm()):
            return False
    return True
