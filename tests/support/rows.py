"""How many rows enter the first linear layer together: counted where they are multiplied, whatever kernel does it.

With our own kernels that is a call into the C library, made by Python or by a replay that Python does not see into. So the library is
watched: a replay is stopped before and after the first product, and the rows that the product has written are counted in its output. What
a call says about itself is not believed.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy
import pytest
from torch import nn

from jitney_runtime.kernels.library import KERNELS, Call, kernels
from jitney_runtime.torch_backend import cpu_kernels, recording

_LINEAR = list(KERNELS).index("linear")


class RowCounter:
    """`entered` grows by the number of rows with every product of the first linear layer; `replayed` counts those inside of replays."""

    def __init__(self) -> None:
        self.entered: list[int] = []
        self.replayed = 0

    def watch(self, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        """`model` has its kernels, and no layer has been recorded yet."""
        first: Any = model.get_submodule("model.layers.0.self_attn.q_proj")
        if hasattr(first, "_shared"):
            library = _Watched(kernels(), first._shared._product.packed.data.data_ptr(), self)
            monkeypatch.setattr(cpu_kernels, "kernels", lambda: library)
            monkeypatch.setattr(recording, "kernels", lambda: library)
        else:
            first.register_forward_pre_hook(lambda module, inputs: self.entered.append(inputs[0].flatten(end_dim=-2).shape[0]))


class _Watched:
    """The C library, and a look at every call that could be the product with the weight at address `packed`."""

    def __init__(self, library: Any, packed: int, counter: RowCounter) -> None:
        self._library, self._packed, self._counter = library, packed, counter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._library, name)

    def jitney_linear(self, *arguments: Any) -> None:
        if arguments[1] != self._packed:
            return self._library.jitney_linear(*arguments)
        _, _, _, output, _, rows, outs, *_ = arguments
        return self._count(output, rows, outs, lambda: self._library.jitney_linear(*arguments))

    def jitney_replay(self, calls: Any, count: int, threads: int) -> None:
        start = 0
        for place, call in enumerate(calls[:count]):
            if call.kernel == _LINEAR and call.pointers[1] == self._packed:
                self._replay(calls, start, place, threads)
                rows, outs, _ = call.numbers[:3]
                self._counter.replayed += 1
                self._count(call.pointers[3], rows, outs, lambda place=place: self._replay(calls, place, place + 1, threads))
                start = place + 1
        self._replay(calls, start, count, threads)

    def _replay(self, calls: Any, start: int, end: int, threads: int) -> None:
        self._library.jitney_replay((Call * (end - start))(*calls[start:end]), end - start, threads)

    def _count(self, output: int, rows: int, outs: int, product: Any) -> None:
        # Not torch's tensors: a recording watches what is done with those.
        written = numpy.ctypeslib.as_array(ctypes.cast(output, ctypes.POINTER(ctypes.c_float)), (rows, outs))
        written.fill(numpy.nan)
        product()
        self._counter.entered.append(int((~numpy.isnan(written)).all(axis=-1).sum()))
