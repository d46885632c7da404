"""A loaded model made ready for a CPU: which kernel for which layer, what is fused, weights packed once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from jitney_runtime.errors import NotSupportedYet
from jitney_runtime.heap import give_back
from jitney_runtime.torch_backend.compensation import compensate_linears
from jitney_runtime.torch_backend.fusions import fuse, fuse_parts
from jitney_runtime.torch_backend.linears import (
    Int4Linear,
    Int8Linear,
    NativeLinear,
    PackedLinear,
    Precision,
    choose_kernel,
    is_right,
    pack_linears,
)

logger = logging.getLogger(__name__)

# Models of up to so many weights lose most by 4 bits, and are compensated in less than a minute: operator and front door know the number.
SMALL = 500_000_000
# Of these 4 bits are too few for some layers even so, by name and what leads back from a wider middle: on SmolLM2-135M all in 4 bits loses
# twice what is lost with these in 8.
_DELICATE = ("v_proj", "o_proj", "down_proj")


@torch.no_grad()
def use_kernels(
    model: nn.Module,
    kernel: str,
    precision: Precision = Precision.FLOAT32,
    text: Callable[[], torch.Tensor] | None = None,
    told: Callable[[int, int], None] = lambda done, count: None,
) -> Precision:
    """Change `model` in place. `kernel`: "plain" changes nothing, "onednn" and "native" pin one, "auto" takes what serves best here.
    Returns what the products are made of in the end.

    With another `precision` than float32 the weights may be bfloat16, and what is not a product is float32 afterwards. In int4, a small
    model's rounding is compensated for what it makes of the tokens [parts, length] of `text`; `told` hears of how many layers, and of how
    many.
    """
    if kernel != "plain":
        _turn(model)
    small = sum(weight.numel() for weight in model.parameters()) <= SMALL
    if precision is not Precision.FLOAT32:
        _widen(model)
    chosen = choose_kernel(model, kernel, precision)
    if chosen is None and precision in (Precision.INT8, Precision.INT4):
        # Wider weights would not fit into a pod that was sized for these, and the resource would tell a lie.
        raise NotSupportedYet(f"no kernel for {precision} computes this model rightly on this machine: set quantization to none")
    if chosen is None and precision is not Precision.FLOAT32:
        logger.warning("no kernel for %s works on this machine: float32 is used", precision)
        precision = Precision.FLOAT32
        chosen = choose_kernel(model.float(), kernel)
    if chosen is None:
        return precision
    special, found = _vocabulary(model, chosen), Counter[str]()
    if chosen is Int4Linear and small:
        special |= _delicate(model)
        if text is not None:
            compensate_linears(model, text(), frozenset(special), told, lambda layer: _pack(layer, chosen, special, found))
    if issubclass(chosen, NativeLinear):
        fuse(model, chosen, apart=frozenset(special), found=found)
    pack_linears(model, chosen, special)
    return precision


def _turn(module: nn.Module) -> None:
    """GPT-2's layers keep their weights the other way round: they become linear layers like all others."""
    for name, child in list(module.named_children()):
        if type(child) is Conv1D:
            weight, bias = child.get_parameter("weight").detach(), child.get_parameter("bias").detach()
            made = nn.Linear(weight.shape[0], weight.shape[1], device="meta")
            made.weight = nn.Parameter(weight.t().contiguous(), requires_grad=False)
            made.bias = nn.Parameter(bias, requires_grad=False)
            setattr(module, name, made)
        else:
            _turn(child)


def _pack(layer: nn.Module, kernel: type[PackedLinear], special: dict[int, type[PackedLinear]], found: Counter[str]) -> None:
    fuse_parts(layer, kernel, torch.device("cpu"), frozenset(special), found)
    pack_linears(layer, kernel, special)
    give_back()


def _vocabulary(model: nn.Module, chosen: type[PackedLinear]) -> dict[int, type[PackedLinear]]:
    """The scores of the vocabulary decide between tokens: 4 bits are too few for them."""
    output = model.get_output_embeddings()  # type: ignore[operator]
    if chosen is not Int4Linear or type(output) is not nn.Linear:
        return {}
    if not is_right(output, Int8Linear(output)):
        logger.warning("the scores of the vocabulary are in int4: the int8 kernel failed its self-check for them")
        return {}
    return {id(output): Int8Linear}


def _delicate(model: nn.Module) -> dict[int, type[PackedLinear]]:
    hidden = int(model.config.get_text_config().hidden_size)  # type: ignore[union-attr, operator]
    found = [
        layer
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and (name.endswith(_DELICATE) or layer.in_features > layer.out_features == hidden)
    ]
    samples = {layer.weight.shape: layer for layer in found}
    if not all(is_right(one, Int8Linear(one)) for one in samples.values()):
        logger.warning("the layers that lose most by it are in int4 too: the int8 kernel failed its self-check for them")
        return {}
    return {id(layer): Int8Linear for layer in found}


def _widen(module: nn.Module) -> None:
    """Every parameter to float32 but those of linear layers, which are packed, and plain embeddings, which are bfloat16 and widened by the
    row when they are looked up."""
    if type(module) is nn.Linear:
        return
    if type(module) is nn.Embedding:
        # One of its own: a tied layer of scores is packed from what the checkpoint says.
        module.weight = nn.Parameter(module.weight.bfloat16(), requires_grad=False)
        module.register_forward_hook(lambda embedding, inputs, output: output.float())
        return
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.float()
    for child in module.children():
        _widen(child)
