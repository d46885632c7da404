"""Steps recorded twice and replayed for any number of tokens: afterwards the same kernels run in one C call, without the model's Python.

Recorded are the layers between the embedding and the final norm, where nearly all Python is. A step can be recorded when everything that is
computed there is computed by our kernels (and additions): a dispatch mode sees every operator of torch, and one that is neither a view nor
an addition ends the attempt, for good. Two recordings with different numbers of tokens tell what depends on it: all that differs must be a
multiple of it. The first replay is compared, bit by bit, with the model's own run of the same step, and so is one of many more tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from jitney_runtime.torch_backend import cpu_kernels
from jitney_runtime.torch_backend.recording import Memory, Steps, Tape, Unlike

logger = logging.getLogger(__name__)

# A step of up to so many times the tokens of one that was proven is not compared with the model's own any more.
TRUSTED = 2


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees torch's operators during a recording: additions become ours, views pass, anything else spoils it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.spoiled: str | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.add.Tensor and not kwargs and _plain_addition(*args):
            return cpu_kernels.add(*args)
        result = func(*args, **(kwargs or {}))
        # An empty tensor is nothing yet: what is written into it is seen.
        if func is not torch.ops.aten.empty.memory_format and not (func.is_view and _shares_memory(result, args)):
            self.spoiled = self.spoiled or str(func)
        return result


def _plain_addition(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor) or one.shape != other.shape:
        return False
    return all(tensor.dtype is torch.float32 and tensor.is_contiguous() for tensor in (one, other))


def _shares_memory(result: Any, args: Any) -> bool:
    known = {tensor.untyped_storage().data_ptr() for tensor in _tensors(args)}
    return all(tensor.untyped_storage().data_ptr() in known for tensor in _tensors(result))


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict):
        yield from _tensors(list(tree.values()))
    elif isinstance(tree, (list, tuple)):
        for part in tree:
            yield from _tensors(part)


def _floats(*tree: Any) -> list[torch.Tensor]:
    """What a layer computes with; positions and the like are not, or the watch would see them used."""
    return [tensor for tensor in _tensors(tree) if tensor.is_floating_point()]


def _exchange(tree: Any, places: dict[int, torch.Tensor]) -> Any:
    """The same nest of tuples, lists and dictionaries, tensors exchanged by identity."""
    if isinstance(tree, torch.Tensor):
        return places.get(id(tree), tree)
    if isinstance(tree, dict):
        return {name: _exchange(part, places) for name, part in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_exchange(part, places) for part in tree)
    return tree


class Surroundings(NamedTuple):
    """What the first layer is given beside the states, and the modules that the last one's states go through, but the vocabulary's."""

    given: list[torch.Tensor]
    following: list[nn.Module]


class Recordings:
    """What was recorded of one model, and what the running step does with it. Engine thread only.

    The runner calls `begin` before each forward pass and `end` after it, whatever happened; the layers call `enter` in between.
    """

    def __init__(self, max_tokens: int, beside: list[nn.Module]) -> None:
        """`beside`: the modules that stand next to the list of layers."""
        self._max_tokens = max_tokens
        self._beside = beside
        self._memory = Memory(max_tokens)
        self._first: Tape | None = None
        self._steps: Steps | None = None
        self._possible = True
        # Of the running step:
        self._tokens = 0
        self._tape: Tape | None = None
        self._replays = False
        self._watch: _Watch | None = None
        self._inputs: list[torch.Tensor] = []
        self._places: dict[int, torch.Tensor] = {}
        self._previous: Any = None
        self._expected: torch.Tensor | None = None
        # Of a pass that only looks:
        self._looks = False
        self._given: list[torch.Tensor] = []
        self._left: torch.Tensor | None = None

    def trusts(self, tokens: int) -> bool:
        """Whether a step of so many tokens is replayed and not compared any more."""
        return self._steps is not None and tokens <= min(self._max_tokens, TRUSTED * self._steps.proven)

    def replay(self, inputs: list[torch.Tensor], tokens: int) -> torch.Tensor:
        """The layers of a step that is trusted, of the states and whatever else the first layer is given -> the last one's states."""
        assert self._steps is not None
        return self._steps.replay(inputs, tokens)

    def look(self, run: Callable[[], object]) -> Surroundings:
        """What surrounds the layers in `run`, a pass of the model whose layers compute nothing: they give back what they get."""
        following: list[nn.Module] = []

        def follow(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if self._left is not None and inputs and inputs[0] is self._left:
                following.append(module)
                self._left = output

        hooks = [module.register_forward_hook(follow) for module in self._beside]
        self._looks, self._given, self._left = True, [], None
        try:
            run()
            return Surroundings(self._given, following)
        finally:
            self._looks, self._given, self._left = False, [], None
            for hook in hooks:
                hook.remove()

    def begin(self, tokens: int) -> None:
        """A step of so many tokens begins."""
        self._tokens, self._tape = tokens, None
        usable = self._possible and tokens <= self._max_tokens
        self._replays = usable and self._steps is not None
        # One token has strides that say nothing about more.
        if usable and self._steps is None and tokens > 1 and (self._first is None or self._first.tokens != tokens):
            self._tape = Tape(self._memory, tokens)

    def end(self) -> None:
        """The step is over. One that broke off in the middle of a recording leaves none, nor buffers that somebody may still hold."""
        if self._watch is not None:
            self._leave()
            self._forget()
        self._tape, self._replays, self._expected, self._previous = None, False, None, None
        self._inputs, self._places = [], {}

    def enter(self, layer: nn.Module, place: int, last: bool, hidden: torch.Tensor, args: Any, kwargs: Any) -> Any:
        """What layer number `place` answers in this step."""
        if self._looks:
            if place == 0:
                self._given = _floats(args, kwargs)
            self._left = hidden if last else None
            return hidden
        if place == 0 and self._replays and self._steps and not self._steps.fits(_floats(hidden, args, kwargs), self._tokens):
            self._replays = False
        if self._replays and self._steps:
            return self._replay(self._steps, layer, place, last, hidden, args, kwargs)
        tape = self._tape
        if tape is None:
            return layer(hidden, *args, **kwargs)
        if place == 0:
            # Kept while their ids stand for them.
            self._inputs = _floats(hidden, args, kwargs)
            try:
                self._places = dict(zip(map(id, self._inputs), tape.keep(self._inputs), strict=True))
            except Unlike:
                self._give_up("its layers have other inputs in each step")
                return layer(hidden, *args, **kwargs)
            self._watch = _Watch()
            cpu_kernels.record(tape)
            self._watch.__enter__()  # type: ignore[no-untyped-call]
        elif self._watch and (strange := self._strange(hidden, args, kwargs)):
            self._watch.spoiled = self._watch.spoiled or strange
        output = layer(*_exchange((hidden, *args), self._places), **_exchange(kwargs, self._places))
        self._previous = output
        if last and self._watch is not None:
            self._finish(tape, self._watch, output)
        return output

    def _strange(self, hidden: torch.Tensor, args: Any, kwargs: Any) -> str | None:
        """What a replay, which does all layers at the first one's call, would not know of a later layer's call."""
        if hidden is not self._previous:
            return "something between two layers"
        if any(id(tensor) not in self._places for tensor in _floats(args, kwargs)):
            return "a layer with an input that the first one does not have"
        return None

    def _replay(self, steps: Steps, layer: nn.Module, place: int, last: bool, hidden: torch.Tensor, args: Any, kwargs: Any) -> Any:
        if self._tokens > TRUSTED * steps.proven:
            # And the model's own run, which answers: it does not use the recordings' memory, and what it stores in the cache is the same.
            if place == 0:
                self._expected = steps.replay(_floats(hidden, args, kwargs), self._tokens).clone()
            output = layer(hidden, *args, **kwargs)
            if last:
                if isinstance(output, torch.Tensor) and torch.equal(output, self._expected):  # type: ignore[arg-type]
                    steps.proven = self._tokens
                else:
                    self._give_up("a replayed step differs from the model's own")
            return output
        if place > 0:
            return hidden
        return steps.replay(_floats(hidden, args, kwargs), self._tokens)

    def _finish(self, tape: Tape, watch: _Watch, output: Any) -> None:
        self._leave()
        if watch.spoiled or not isinstance(output, torch.Tensor):
            self._give_up(f"it computes {watch.spoiled or 'more than one output'} between its layers' kernels")
        elif not tape.end(output):
            self._give_up("its last layer gives what no kernel computed")
        elif self._first is None:
            self._first = tape
        else:
            try:
                self._steps = Steps(self._memory, self._first, tape)
            except Unlike:
                self._give_up("two steps differ in more than their numbers of tokens")

    def _leave(self) -> None:
        assert self._watch is not None
        self._watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._watch = None
        cpu_kernels.record(None)

    def _give_up(self, why: str) -> None:
        logger.info("steps are not recorded for this model: %s", why)
        self._possible, self._replays, self._tape = False, False, None
        self._forget()

    def _forget(self) -> None:
        self._first, self._steps, self._memory = None, None, Memory(self._max_tokens)


class RecordedLayer(nn.Module):
    """In the place of a decoder layer; everything but the call is the layer's own."""

    def __init__(self, recordings: Recordings, layer: nn.Module, place: int, last: bool) -> None:
        super().__init__()
        self.layer = layer
        self._recordings, self._place, self._last = recordings, place, last

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self._recordings.enter(self.layer, self._place, self._last, hidden_states, args, kwargs)


def record_layers(model: nn.Module, attending: set[int], max_tokens: int) -> Recordings | None:
    """Exchange the decoder's layers, in place. `attending`: ids of the attention modules; None where no list has one in each layer."""
    for owner in model.modules():
        children = list(owner.children())
        for stack in children:
            if isinstance(stack, nn.ModuleList) and len(stack) == len(attending) and all(_attends(layer, attending) for layer in stack):
                recordings = Recordings(max_tokens, [child for child in children if child is not stack])
                for place, layer in enumerate(list(stack)):
                    stack[place] = RecordedLayer(recordings, layer, place, place == len(stack) - 1)
                return recordings
    return None


def _attends(layer: nn.Module, attending: set[int]) -> bool:
    return sum(id(module) in attending for module in layer.modules()) == 1
