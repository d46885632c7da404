"""Weights whose plain rounding to 4 bits is better than that of the original ones: GPTQ (Frantar et al. 2022, arXiv:2210.17323) on the grid
of linear_int4.c.

A group's scale and least value are searched first, for all groups, by what each input adds to the error. Then inputs are rounded one after
another, those with the largest values first, and what rounding one loses is made up for by those that are still to be rounded. The least
and the largest weight of a group get the codes 0 and 15 whatever they have become, so that pack() finds the same scale and least value
again: the weights that come out are on its grid already.

Inputs are what a text of our own gives. Measured on SmolLM2-135M, whose weights were rounded to other 4 bits before, with its delicate
layers in int8: perplexity rises by 6 % instead of 29 %.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import resources
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

logger = logging.getLogger(__name__)

# Of the text, in parts that a model takes at once. With half of it perplexity rises by 7.0 % instead of 5.6 %.
_TOKENS, _PART = 4096, 512
# Inputs that share a scale and a least value, and the largest code: linear_int4.c.
GROUP, TOP = 32, 15
# Added to the Hessian's diagonal, as a share of its mean.
DAMPING = 0.1
# By how much the ends of a group may be drawn in.
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
# Outputs at once, which stay in a core's cache.
OUTS = 1024


def hessian(inputs: torch.Tensor) -> torch.Tensor:
    """inputs [..., ins] of a layer -> [ins, ins]. Each token counts the same: the few with enormous values would be all that counts."""
    rows = inputs.reshape(-1, inputs.shape[-1]).float()
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    found: torch.Tensor = rows.T @ rows
    return found


class Curvature:
    """What is common to all weights that read the same inputs: the order, and U with U^T U = the inverse of the damped Hessian."""

    def __init__(self, hessian: torch.Tensor, damping: float = DAMPING) -> None:
        ins = len(hessian)
        short = -ins % GROUP
        hessian = torch.nn.functional.pad(hessian.float(), (0, short, 0, short))
        self.costs = hessian.diagonal().clone()
        if not float(self.costs.sum()) > 0:
            hessian = torch.eye(len(hessian))
        self.order = torch.argsort(self.costs, descending=True, stable=True)
        damped = hessian[self.order][:, self.order]
        damped.diagonal().add_(damping * damped.diagonal()[:ins].mean())
        # H = R R^T with R upper, so U = R^-1.
        upper = torch.linalg.cholesky(damped.flip(0, 1)).flip(0, 1)
        self.inverse = torch.linalg.solve_triangular(upper, torch.eye(len(upper)), upper=True)


def compensate(weight: torch.Tensor, hessian: torch.Tensor | Curvature) -> torch.Tensor:
    """weight [outs, ins] -> float32 of that shape, which pack() keeps as it is. `hessian` [ins, ins], or made once for several weights."""
    known = hessian if isinstance(hessian, Curvature) else Curvature(hessian)
    return torch.cat([_compensated(part.float(), known) for part in torch.split(weight, OUTS)])


def _compensated(weight: torch.Tensor, known: Curvature) -> torch.Tensor:
    outs, ins = weight.shape
    # A short last group is filled up with its last weight, which changes no end, and costs nothing.
    left = weight.T.contiguous()
    left = torch.cat([left, left[-1:].expand(-ins % GROUP, outs)])
    groups = left.view(-1, GROUP, outs)
    low, scale = _grids(groups, known.costs.view(-1, GROUP, 1))
    ends = torch.zeros(groups.shape, dtype=torch.int8)
    ends.scatter_(1, groups.argmin(1, keepdim=True), -1).scatter_(1, groups.argmax(1, keepdim=True), 1)
    ends, left, group = ends.view(-1, outs)[known.order], left[known.order], known.order // GROUP
    low, scale, inverse = low[:, 0], scale[:, 0], known.inverse
    factor = 1 / scale.clamp(min=1e-30)
    rounded = torch.empty_like(left)
    for first in range(0, len(left), GROUP):
        last = first + GROUP
        block, lost = left[first:last], torch.empty(GROUP, outs)
        for row in range(GROUP):
            at = first + row
            here = group[at]
            code = ((block[row] - low[here]) * factor[here]).round_().clamp_(0, TOP)
            code.masked_fill_(ends[at] < 0, 0).masked_fill_(ends[at] > 0, TOP)
            value = torch.add(low[here], code.mul_(scale[here]), out=rounded[known.order[at]])
            lost[row] = (block[row] - value).div_(inverse[at, at])
            block[row + 1 :].addr_(inverse[at, at + 1 : last], lost[row], alpha=-1)
        left[last:].addmm_(inverse[first:last, last:].T, lost, alpha=-1)
    return rounded[:ins].T.contiguous()


def _grids(groups: torch.Tensor, costs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """groups [groups, GROUP, outs], costs [groups, GROUP, 1] -> low and scale [groups, 1, outs] of the least cost; both are bfloat16s."""
    least, largest = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    share = costs / costs.sum(1, keepdim=True).clamp(min=1e-30)
    mean = (groups * share).sum(1, keepdim=True)
    low = _bfloat16(least)
    scale = _bfloat16((largest - low) / TOP)
    found = _judged(groups, share, low, scale)
    for shrink in SHRINKS:
        low = _bfloat16(least * shrink)
        scale = _bfloat16((largest * shrink - low) / TOP)
        found = _better(found, _judged(groups, share, low, scale))
        # The line through the weights by their codes.
        codes = _codes(groups, low, scale)
        middle = (codes * share).sum(1, keepdim=True)
        codes -= middle
        spread = (codes.square() * share).sum(1, keepdim=True)
        slope = (codes * (groups - mean) * share).sum(1, keepdim=True) / spread.clamp(min=1e-30)
        # Never below what pack() can find again.
        scale = _bfloat16(torch.where(slope > 0, slope, scale))
        low = _bfloat16(mean - middle * scale)
        found = _better(found, _judged(groups, share, low, scale))
    return found[1], found[2]


def _codes(groups: torch.Tensor, low: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return ((groups - low) / scale.clamp(min=1e-30)).round_().clamp_(0, TOP)


def _judged(groups: torch.Tensor, share: torch.Tensor, low: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, ...]:
    lost = _codes(groups, low, scale).mul_(scale).add_(low).sub_(groups)
    return (lost.square_() * share).sum(1, keepdim=True), low, scale


def _better(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.where(other[0] < one[0], new, old) for old, new in zip(one, other, strict=True))


def _bfloat16(values: torch.Tensor) -> torch.Tensor:
    return values.bfloat16().float()


def calibration(tokenizer: Any, window: int) -> torch.Tensor:
    """Tokens [parts, length] of the text that comes with this package, in parts of no more than `window`."""
    ids = tokenizer.encode(_text())[:_TOKENS]
    length = min(_PART, window, len(ids))
    parts = len(ids) // length
    return torch.tensor(ids[: parts * length]).view(parts, length)


@cache
def _text() -> str:
    return resources.files("jitney_runtime.torch_backend").joinpath("calibration.txt").read_text()


@torch.no_grad()
def compensate_linears(
    model: nn.Module,
    tokens: torch.Tensor,
    but: frozenset[int],
    told: Callable[[int, int], None],
    done: Callable[[nn.Module], None] = lambda layer: None,
) -> None:
    """One forward pass over `tokens` [parts, length]; every nn.Linear that it calls, but those whose id is in `but`, is compensated in
    place before it computes, so that those after it see what it makes of them. `told` hears how many are done, and of how many.

    `done` is given each decoder layer when it has computed and may pack it: a checkpoint's weights take no memory, and what is made of all
    of them would take more than the packed ones ever do.
    """
    base: nn.Module = getattr(model, "base_model", model)
    if base is model:
        # For all places at once they would be the most memory of all.
        logger.warning("int4: rounding is not compensated for: the model's scores cannot be left out")
        return
    linears = [layer for layer in base.modules() if type(layer) is nn.Linear]
    work = _Pass(but, sum(id(layer) not in but for layer in linears), told)
    hooks: weakref.WeakKeyDictionary[nn.Linear, tuple[RemovableHandle, ...]] = weakref.WeakKeyDictionary(
        {layer: (layer.register_forward_pre_hook(work.before), layer.register_forward_hook(work.after)) for layer in linears}
    )

    def computed(layer: nn.Module, *_: object) -> None:
        # Whoever copies a part of it would copy what the hooks hold, too.
        _remove(handle for part in layer.modules() if isinstance(part, nn.Linear) for handle in hooks.pop(part, ()))
        done(layer)

    layers = [layer.register_forward_hook(computed) for layer in _stack(base)]
    # What is packed is to be freed.
    linears.clear()
    try:
        with _plain_attention(model):
            base(input_ids=tokens, use_cache=False)
    except Exception:
        # What was done so far is right by itself; and no model is refused for want of it.
        logger.warning("int4: rounding is not compensated for beyond %d of %d layers", work.finished, work.count, exc_info=True)
    finally:
        _remove(chain(layers, *hooks.values()))
        work.end()


def _remove(handles: Iterable[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


class _Pass:
    """What the hooks of a pass share. Layers that are given the same tensor one after another share what is known of it; weights may be
    narrower than what is computed with, and are wide for the moment in which they are used."""

    def __init__(self, but: frozenset[int], count: int, told: Callable[[int, int], None]) -> None:
        self._but, self.count, self._told = but, count, told
        self.finished = 0
        self._inputs: torch.Tensor | None = None
        self._known: Curvature | None = None
        # A layer that is called twice is compensated for the first time.
        self._seen: weakref.WeakSet[nn.Linear] = weakref.WeakSet()
        # Of layers that are computing: weight and bias as they are kept.
        self._narrow: dict[nn.Linear, tuple[Any, Any]] = {}

    def before(self, layer: nn.Linear, inputs: tuple[torch.Tensor, ...]) -> None:
        weight: torch.Tensor = layer.weight
        self._narrow[layer] = layer.weight, layer.bias
        if id(layer) not in self._but and layer not in self._seen:
            self._seen.add(layer)
            if self._known is None or self._inputs is not inputs[0]:
                self._inputs, self._known = inputs[0], Curvature(hessian(inputs[0]))
            weight = _alone(weight.detach(), self._known)
            # Rounded, a group's least and largest may be off by a thousandth of their distance: the codes are the same.
            self._narrow[layer] = _kept(weight.to(layer.weight.dtype)), layer.bias
            self.finished += 1
            self._told(self.finished, self.count)
        layer.weight = _kept(weight.to(inputs[0].dtype))
        if layer.bias is not None:
            layer.bias = _kept(layer.bias.to(inputs[0].dtype))

    def after(self, layer: nn.Linear, inputs: Any = None, output: Any = None) -> None:
        layer.weight, layer.bias = self._narrow.pop(layer)

    def end(self) -> None:
        """After a layer that failed, too."""
        for layer in list(self._narrow):
            self.after(layer)


def _kept(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def _stack(base: nn.Module) -> list[nn.Module]:
    """The decoder layers: of the first list that has linear layers."""
    for module in base.modules():
        if isinstance(module, nn.ModuleList) and any(type(part) is nn.Linear for part in module.modules()):
            return list(module)
    return []


@contextmanager
def _plain_attention(model: nn.Module) -> Iterator[None]:
    """transformers' own, over whole texts: the engine's wants a step."""
    own = model.config._attn_implementation  # type: ignore[union-attr]
    model.set_attn_implementation("sdpa")  # type: ignore[operator]
    try:
        yield
    finally:
        model.set_attn_implementation(own)  # type: ignore[operator]


def _alone(weight: torch.Tensor, known: Curvature) -> torch.Tensor:
    """By one thread: the steps are short, and several would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return compensate(weight, known)
    finally:
        torch.set_num_threads(threads)
