"""What a recorded step is: its buffers, the calls of one recording, and what two of them tell of a step of any number of tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch

from jitney_runtime.kernels.library import KERNELS, Call, kernels

_NUMBERS = {name: number for number, name in enumerate(KERNELS)}


class Memory:
    """Buffers for what a step computes, shared by all steps: no two run at once. A buffer is free again when no tensor uses it any more.

    Each holds the most tokens that a step may have, and which one is given does not depend on how many there are.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._buffers: list[torch.Tensor] = []
        self._inputs: list[torch.Tensor] = []

    def empty(self, shape: Iterable[int], tokens: int) -> torch.Tensor:
        """Room for `shape` of a step of so many tokens."""
        shape = tuple(shape)
        count = prod(shape)
        needed = -(-count // tokens) * self._max_tokens
        for buffer in self._buffers:
            if len(buffer) >= needed and _uses(buffer) == _UNUSED:
                return buffer[:count].view(shape)
        buffer = torch.empty(needed)
        self._buffers.append(buffer)
        return buffer[:count].view(shape)

    def keep(self, inputs: list[torch.Tensor], tokens: int) -> list[torch.Tensor]:
        """Copies of the inputs, each in a place that stays. Raises Unlike where the places are for others."""
        if self._inputs and [-(-tensor.numel() // tokens) * self._max_tokens for tensor in inputs] != [
            len(place) for place in self._inputs
        ]:
            raise Unlike
        for tensor in inputs[len(self._inputs) :]:
            self._inputs.append(torch.empty(-(-tensor.numel() // tokens) * self._max_tokens))
        kept = [place[: tensor.numel()].view(tensor.shape) for place, tensor in zip(self._inputs, inputs, strict=True)]
        for place, tensor in zip(kept, inputs, strict=True):
            place.copy_(tensor)
        return kept

    def number_of(self, tensor: torch.Tensor) -> int | None:
        """Which buffer the tensor begins."""
        return next((number for number, buffer in enumerate(self._buffers) if buffer.data_ptr() == tensor.data_ptr()), None)

    def at(self, number: int, shape: tuple[int, ...]) -> torch.Tensor:
        return self._buffers[number][: prod(shape)].view(shape)


def _uses(tensor: torch.Tensor) -> int:
    return int(torch._C._storage_Use_Count(tensor.untyped_storage()._cdata))


_UNUSED = _uses(torch.empty(1))


class Tape:
    """One recording: the inputs' shapes, the calls, the output's buffer and shape."""

    def __init__(self, memory: Memory, tokens: int) -> None:
        self._memory = memory
        self.tokens = tokens
        self.calls: list[Call] = []
        self.inputs: list[tuple[int, ...]] = []
        self.output: tuple[int, tuple[int, ...]] | None = None

    def empty(self, shape: Iterable[int]) -> torch.Tensor:
        return self._memory.empty(shape, self.tokens)

    def call(self, kernel: str, pointers: tuple[int | None, ...], numbers: tuple[int, ...], floats: tuple[float, ...]) -> None:
        call = Call(_NUMBERS[kernel])
        call.pointers[: len(pointers)] = pointers
        call.numbers[: len(numbers)] = numbers
        call.floats[: len(floats)] = floats
        self.calls.append(call)

    def keep(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        self.inputs = [tuple(tensor.shape) for tensor in inputs]
        return self._memory.keep(inputs, self.tokens)

    def end(self, output: torch.Tensor) -> bool:
        """False where the output is nothing that was computed."""
        number = self._memory.number_of(output)
        if number is None or not output.is_contiguous():
            return False
        self.output = (number, tuple(output.shape))
        return True


class Unlike(Exception):
    """Two recordings are not of one kind."""


def _fixed(call: Call) -> tuple[Any, ...]:
    """What a call has in common with those of other numbers of tokens."""
    return call.kernel, tuple(call.pointers), tuple(call.floats)


@dataclass(frozen=True)
class _Number:
    """A number of a recording, or what it is times the number of tokens."""

    value: int
    grows: bool

    def at(self, tokens: int) -> int:
        return self.value * tokens if self.grows else self.value


class Steps:
    """What two recordings tell of a step of any number of tokens."""

    def __init__(self, memory: Memory, one: Tape, other: Tape) -> None:
        """Raises Unlike."""
        self._memory = memory
        self._counts = (one.tokens, other.tokens)
        assert one.output is not None
        assert other.output is not None
        if len(one.calls) != len(other.calls) or len(one.inputs) != len(other.inputs) or one.output[0] != other.output[0]:
            raise Unlike
        self._calls = (Call * len(one.calls))(*one.calls)
        self._growing: list[tuple[Call, int, int]] = []
        for call, before, after in zip(self._calls, one.calls, other.calls, strict=True):
            if _fixed(before) != _fixed(after):
                raise Unlike
            for place, number in enumerate(self._numbers(tuple(before.numbers), tuple(after.numbers))):
                if number.grows:
                    self._growing.append((call, place, number.value))
        self._inputs = [self._numbers(*shapes) for shapes in zip(one.inputs, other.inputs, strict=True)]
        self._output, self._shape = one.output[0], self._numbers(one.output[1], other.output[1])
        self._tokens = 0
        # The most tokens of a step that was proven.
        self.proven = 0

    def _numbers(self, one: tuple[int, ...], other: tuple[int, ...]) -> list[_Number]:
        if len(one) != len(other):
            raise Unlike
        return [self._number(*pair) for pair in zip(one, other, strict=True)]

    def _number(self, one: int, other: int) -> _Number:
        if one == other:
            return _Number(one, False)
        first, second = self._counts
        if one % first or one // first * second != other:
            raise Unlike
        return _Number(one // first, True)

    def fits(self, inputs: list[torch.Tensor], tokens: int) -> bool:
        """Whether a step gives what the recorded ones gave."""
        return [tuple(tensor.shape) for tensor in inputs] == [tuple(number.at(tokens) for number in shape) for shape in self._inputs]

    def replay(self, inputs: list[torch.Tensor], tokens: int) -> torch.Tensor:
        self._memory.keep(inputs, tokens)
        if tokens != self._tokens:
            for call, place, value in self._growing:
                call.numbers[place] = value * tokens
            self._tokens = tokens
        library = kernels()
        assert library is not None
        library.jitney_replay(self._calls, len(self._calls), torch.get_num_threads())
        return self._memory.at(self._output, tuple(number.at(tokens) for number in self._shape))
