"""Parts of a transformers model replaced by one call of our kernels each: norms, gated MLPs, projections that read the same input.

A part is recognised by what its module holds, and taken only when the replacement gives the same result on random input: a model whose
class looks alike and computes something else keeps its own code.
"""

from __future__ import annotations

import copy
import inspect
import logging
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from jitney_runtime.torch_backend import cpu_kernels, cuda_elementwise
from jitney_runtime.torch_backend.cuda_program import TYPES

logger = logging.getLogger(__name__)

_TOLERANCE = 1e-5
_CPU = torch.device("cpu")
# Makes the product that stands for several.
Product = Callable[[nn.Linear], nn.Module]


def _rms_norm(inputs: torch.Tensor, weight: torch.Tensor, epsilon: float, offset: float) -> torch.Tensor:
    on_cpu = inputs.device.type == "cpu"
    return (cpu_kernels.rms_norm if on_cpu else cuda_elementwise.rms_norm)(inputs, weight, epsilon, offset)


def _silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    return (cpu_kernels.silu_mul if gate_up.device.type == "cpu" else cuda_elementwise.silu_mul)(gate_up)


def _rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return (cpu_kernels.rotary if states.device.type == "cpu" else cuda_elementwise.rotary)(states, cos, sin)


class RMSNorm(nn.Module):
    """One pass instead of transformers' six operators. `offset` is 1 where the stored weight is the distance from 1 (Gemma)."""

    def __init__(self, weight: torch.Tensor, epsilon: float, offset: float) -> None:
        super().__init__()
        self.weight = weight
        self.epsilon, self.offset = epsilon, offset

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return _rms_norm(hidden_states, self.weight, self.epsilon, self.offset)


class GatedMLP(nn.Module):
    """down(silu(gate(x)) x up(x)), gate and up as one product."""

    def __init__(self, gate_up: nn.Module, down: nn.Module) -> None:
        super().__init__()
        self.gate_up, self.down = gate_up, down

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.down(_silu_mul(self.gate_up(hidden_states)))
        return output


class Shared:
    """Linear layers that read the same input, as one product: the first one that is called computes for all. Engine thread only."""

    def __init__(self, layers: list[nn.Linear], product: Product) -> None:
        self._product = product(_stacked(*layers))
        self._sizes = [layer.out_features for layer in layers]
        self._inputs: torch.Tensor | None = None
        self._outputs: tuple[torch.Tensor, ...] = ()

    def part(self, place: int, inputs: torch.Tensor) -> torch.Tensor:
        """The output of layer `place`: a view into the common one."""
        if self._inputs is not inputs:
            self._inputs, self._outputs = inputs, self._product(inputs).split(self._sizes, dim=-1)
        output = self._outputs[place]
        if place == len(self._sizes) - 1:
            self._inputs, self._outputs = None, ()
        return output


class SharedLinear(nn.Module):
    """One of the layers of a Shared."""

    def __init__(self, shared: Shared, place: int, source: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        self._shared, self._place = shared, place

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self._shared.part(self._place, inputs)


class Rotary:
    """In the place of a modeling file's apply_rotary_pos_emb. Outside inference mode, which the engine alone enters, it is the original."""

    def __init__(self, original: Callable[..., Any]) -> None:
        self.original = original

    def __call__(self, query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *more: Any, **named: Any) -> Any:
        if more or named or not torch.is_inference_mode_enabled() or not _rotates(query, cos) or not _rotates(key, cos):
            return self.original(query, key, cos, sin, *more, **named)
        return _rotated(query, cos, sin), _rotated(key, cos, sin)


def _rotates(states: torch.Tensor, cos: torch.Tensor) -> bool:
    if states.dtype is not cos.dtype or states.dtype not in (TYPES if states.device.type == "cuda" else (torch.float32,)):
        return False
    return states.dim() == 4 and cos.shape == (1, states.shape[2], states.shape[3])


def fuse(
    model: nn.Module,
    product: Product,
    device: torch.device = _CPU,
    apart: frozenset[int] = frozenset(),
    found: Counter[str] | None = None,
) -> None:
    """Replace what can be in place, joined products by what `product` makes of them; linear layers are not packed yet. `device` is where
    the model will be, wherever it is now; norms are float32 on a CPU. Linear layers whose id is in `apart` are not joined with others.
    `found` counts what was fused before."""
    found = Counter() if found is None else found
    fuse_parts(model, product, device, apart, found)
    found["rotary embeddings"] = sum(_rotary(file, device) for file in {type(module).__module__ for module in model.modules()})
    logger.info("fused for our kernels: %s", dict(found))


def fuse_parts(parent: nn.Module, product: Product, device: torch.device, apart: frozenset[int], found: Counter[str]) -> None:
    """Of a part of a model. Layer by layer, so that the weights of a replaced part are freed before the next is made."""
    found["projections"] += _projections(parent, product, apart)
    for name, child in list(parent.named_children()):
        if made := _norm(child, device) or _mlp(child, product, device):
            setattr(parent, name, made)
            found[type(made).__name__] += 1
        else:
            fuse_parts(child, product, device, apart, found)


def _norm(module: nn.Module, device: torch.device = _CPU) -> RMSNorm | None:
    weight = getattr(module, "weight", None)
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not type(module).__name__.endswith("RMSNorm") or len(list(module.parameters())) != 1 or not isinstance(epsilon, float):
        return None
    if weight is None or weight.dim() != 1 or len(inspect.signature(module.forward).parameters) != 1:
        return None
    exact = _exact(module, device)
    for offset in (0.0, 1.0):
        if _same(exact, RMSNorm(weight.detach().float().to(device), epsilon, offset), weight.shape[0], device):
            return RMSNorm(weight.detach().to(device), epsilon, offset)
    return None


def _exact(module: nn.Module, device: torch.device) -> nn.Module:
    """In float32 and before anything is rounded: a comparison is about what the module computes."""
    return copy.deepcopy(module).float().to(device)


def _mlp(module: nn.Module, product: Product, device: torch.device = _CPU) -> GatedMLP | None:
    layers = _linear_children(module, ("gate_proj", "up_proj", "down_proj"))
    if layers is None or len(list(module.parameters())) != sum(len(list(layer.parameters())) for layer in layers):
        return None
    gate, up, down = layers
    if gate.out_features != up.out_features or (gate.bias is None) != (up.bias is None):
        return None
    if device.type == "cpu" and gate.out_features % cpu_kernels.width():
        return None
    joined, exact = _stacked(gate, up), _exact(module, device)
    if not _same(exact, GatedMLP(_exact(joined, device), exact.get_submodule("down_proj")), gate.in_features, device):
        return None
    return GatedMLP(product(joined), down)


def _projections(parent: nn.Module, product: Product, apart: frozenset[int]) -> int:
    layers = _linear_children(parent, ("q_proj", "k_proj", "v_proj"))
    if layers is None or len({(layer.in_features, layer.bias is None) for layer in layers}) != 1:
        return 0
    joined = {name: layer for name, layer in zip(("q_proj", "k_proj", "v_proj"), layers, strict=True) if id(layer) not in apart}
    if len(joined) < 2:
        return 0
    shared = Shared([*joined.values()], product)
    for place, (name, layer) in enumerate(joined.items()):
        setattr(parent, name, SharedLinear(shared, place, layer))
    return 1


def _rotary(file: str, device: torch.device) -> int:
    """Replace the function in a modeling file, where it computes what ours does."""
    namespace = sys.modules[file]
    original = getattr(namespace, "apply_rotary_pos_emb", None)
    if original is None or isinstance(original, Rotary):
        return int(original is not None)
    dim = 16
    query, key, cos, sin = (
        torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(device)
        for shape in ((4, 3, dim), (2, 3, dim), (3, dim), (3, dim))
    )
    try:
        wanted = original(query, key, cos, sin)
    except Exception:
        return 0
    found = tuple(_rotated(states, cos, sin) for states in (query, key))
    if not all(torch.allclose(one, other, rtol=_TOLERANCE, atol=_TOLERANCE) for one, other in zip(wanted, found, strict=True)):
        return 0
    setattr(namespace, "apply_rotary_pos_emb", Rotary(original))  # noqa: B010
    return 1


def _linear_children(module: nn.Module, names: tuple[str, ...]) -> list[nn.Linear] | None:
    children = [getattr(module, name, None) for name in names]
    return [child for child in children if type(child) is nn.Linear] if all(type(child) is nn.Linear for child in children) else None


def _stacked(*layers: nn.Linear) -> nn.Linear:
    """One layer with the outputs of all."""
    weight = torch.cat([layer.weight.detach() for layer in layers])
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=layers[0].bias is not None, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    if layers[0].bias is not None:
        made.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]), requires_grad=False)
    return made


def _same(module: nn.Module, made: nn.Module, dim: int, device: torch.device) -> bool:
    """On ordinary input, on input so small that an epsilon decides, and so large that a clamp does."""
    for scale in (1.0, 1e-3, 1e2, 1e4):
        inputs = (torch.randn(1, 3, dim, generator=torch.Generator().manual_seed(0)) * scale).to(device)
        try:
            wanted = module(inputs)
        except Exception:
            return False
        if not isinstance(wanted, torch.Tensor):
            return False
        if not torch.allclose(wanted, made(inputs), rtol=_TOLERANCE, atol=_TOLERANCE * float(wanted.abs().max())):
            return False
    return True
