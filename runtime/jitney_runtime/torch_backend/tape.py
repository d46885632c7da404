"""Decode steps recorded once and replayed: the model's Python is run once per number of rows, afterwards the same kernels in one C call.

Recorded are the layers between the embedding and the final norm, where nearly all Python is. A step can be recorded when everything that is
computed there is computed by our kernels (and additions): a dispatch mode sees every operator of torch, and one that is neither a view nor
an addition ends the attempt, for good. The first replay of each tape is compared, bit by bit, with the model's own run of the same step.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Iterable, Iterator
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from jitney_runtime.kernels.library import KERNELS, Call, kernels
from jitney_runtime.torch_backend import cpu_kernels

logger = logging.getLogger(__name__)

_NUMBERS = {name: number for number, name in enumerate(KERNELS)}


class Memory:
    """Buffers for what a step computes, shared by all tapes: no two run at once. A buffer is free again when no tensor uses it any more."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._buffers: list[torch.Tensor] = []

    def empty(self, shape: Iterable[int], rows: int) -> torch.Tensor:
        """Room for `shape`, from a buffer that is big enough for the same at the highest number of rows."""
        shape = tuple(shape)
        count = prod(shape)
        for buffer in self._buffers:
            if len(buffer) >= count and _uses(buffer) == _UNUSED:
                return buffer[:count].view(shape)
        buffer = torch.empty(-(-count // rows) * self._max_rows)
        self._buffers.append(buffer)
        return buffer[:count].view(shape)


def _uses(tensor: torch.Tensor) -> int:
    return int(torch._C._storage_Use_Count(tensor.untyped_storage()._cdata))


_UNUSED = _uses(torch.empty(1))


class Tape:
    """One number of rows: the inputs' places, the calls, the output."""

    def __init__(self, memory: Memory, rows: int) -> None:
        self._memory, self._rows = memory, rows
        self._calls: list[Call] = []
        self._array: ctypes.Array[Call] | None = None
        self.inputs: list[torch.Tensor] = []
        self.output: torch.Tensor | None = None
        self.proven = False

    def empty(self, shape: Iterable[int]) -> torch.Tensor:
        return self._memory.empty(shape, self._rows)

    def call(self, kernel: str, pointers: tuple[int | None, ...], numbers: tuple[int, ...], floats: tuple[float, ...]) -> None:
        call = Call(_NUMBERS[kernel])
        call.pointers[: len(pointers)] = pointers
        call.numbers[: len(numbers)] = numbers
        call.floats[: len(floats)] = floats
        self._calls.append(call)

    def keep(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Copies of the inputs in places that stay."""
        self.inputs = [tensor.clone(memory_format=torch.contiguous_format) for tensor in inputs]
        return self.inputs

    def fits(self, inputs: list[torch.Tensor]) -> bool:
        """Whether a step gives what the recorded one gave."""
        return [tensor.shape for tensor in inputs] == [tensor.shape for tensor in self.inputs]

    def end(self, output: torch.Tensor) -> None:
        self.output = output
        self._array = (Call * len(self._calls))(*self._calls)

    def replay(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        assert self._array is not None
        assert self.output is not None
        for place, tensor in zip(self.inputs, inputs, strict=True):
            place.copy_(tensor)
        library = kernels()
        assert library is not None
        library.jitney_replay(self._array, len(self._array), torch.get_num_threads())
        return self.output


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


class Recordings:
    """All tapes of one model, and what the running step does with them. Engine thread only.

    The runner calls `begin` before each forward pass and `end` after it, whatever happened; the layers call `enter` in between.
    """

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._memory = Memory(max_rows)
        self._tapes: dict[int, Tape] = {}
        self._possible = True
        # Of the running step:
        self._tape: Tape | None = None
        self._watch: _Watch | None = None
        self._rows = 0
        self._inputs: list[torch.Tensor] = []
        self._places: dict[int, torch.Tensor] = {}
        self._previous: Any = None
        self._expected: torch.Tensor | None = None

    def begin(self, rows: int) -> None:
        """A step of `rows` decoding rows and nothing else begins; 0 for any other step."""
        self._tape = None
        if self._possible and 0 < rows <= self._max_rows:
            self._tape = self._tapes.get(rows) or Tape(self._memory, rows)
            self._rows = rows

    def end(self) -> None:
        """The step is over. One that broke off in the middle of a recording leaves none."""
        if self._watch is not None:
            self._leave()
        self._tape, self._expected, self._previous = None, None, None
        self._inputs, self._places = [], {}

    def enter(self, layer: nn.Module, place: int, last: bool, hidden: torch.Tensor, args: Any, kwargs: Any) -> Any:
        """What layer number `place` answers in this step."""
        tape = self._tape
        if tape is None:
            return layer(hidden, *args, **kwargs)
        if tape.output is not None and place == 0 and not tape.fits(_floats(hidden, args, kwargs)):
            self._tape = None
            return layer(hidden, *args, **kwargs)
        if tape.output is not None:
            return self._replay(tape, layer, place, last, hidden, args, kwargs)
        if place == 0:
            # Kept while their ids stand for them.
            self._inputs = _floats(hidden, args, kwargs)
            self._places = dict(zip(map(id, self._inputs), tape.keep(self._inputs), strict=True))
            self._watch = _Watch()
            cpu_kernels.record(tape)
            self._watch.__enter__()  # type: ignore[no-untyped-call]
        elif self._watch and (strange := self._strange(hidden, args, kwargs)):
            self._watch.spoiled = self._watch.spoiled or strange
        output = layer(*_exchange((hidden, *args), self._places), **_exchange(kwargs, self._places))
        self._previous = output
        if last:
            self._finish(tape, output)
        return output

    def _strange(self, hidden: torch.Tensor, args: Any, kwargs: Any) -> str | None:
        """What a replay, which does all layers at the first one's call, would not know of a later layer's call."""
        if hidden is not self._previous:
            return "something between two layers"
        if any(id(tensor) not in self._places for tensor in _floats(args, kwargs)):
            return "a layer with an input that the first one does not have"
        return None

    def _replay(self, tape: Tape, layer: nn.Module, place: int, last: bool, hidden: torch.Tensor, args: Any, kwargs: Any) -> Any:
        if not tape.proven:
            # And the model's own run, which answers: it does not use the tape's memory, and what it stores in the cache is the same.
            if place == 0:
                self._expected = tape.replay(_floats(hidden, args, kwargs)).clone()
            output = layer(hidden, *args, **kwargs)
            if last:
                tape.proven = isinstance(output, torch.Tensor) and torch.equal(output, self._expected)  # type: ignore[arg-type]
                if not tape.proven:
                    self._give_up("a replayed step differs from the model's own")
            return output
        if place > 0:
            return hidden
        return tape.replay(_floats(hidden, args, kwargs))

    def _finish(self, tape: Tape, output: Any) -> None:
        watch = self._watch
        assert watch is not None
        self._leave()
        if watch.spoiled or not isinstance(output, torch.Tensor):
            self._give_up(f"it computes {watch.spoiled or 'more than one output'} between its layers' kernels")
            return
        tape.end(output)
        self._tapes[self._rows] = tape

    def _leave(self) -> None:
        assert self._watch is not None
        self._watch.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._watch = None
        cpu_kernels.record(None)

    def _give_up(self, why: str) -> None:
        logger.info("decode steps are not recorded for this model: %s", why)
        self._possible = False
        self._tapes.clear()


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


def record_layers(model: nn.Module, attending: set[int], max_rows: int) -> Recordings | None:
    """Exchange the decoder's layers, in place. `attending`: ids of the attention modules; None where no list has one in each layer."""
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList) and len(stack) == len(attending) and all(_attends(layer, attending) for layer in stack):
            recordings = Recordings(max_rows)
            for place, layer in enumerate(list(stack)):
                stack[place] = RecordedLayer(recordings, layer, place, place == len(stack) - 1)
            return recordings
    return None


def _attends(layer: nn.Module, attending: set[int]) -> bool:
    return sum(id(module) in attending for module in layer.modules()) == 1
