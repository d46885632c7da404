"""The C kernels on torch's tensors on a CPU: products, attention and what lies between. One call uses as many threads as torch may."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Protocol

import torch

from jitney_runtime.kernels.library import Layer, Prompt, Step, kernels
from jitney_runtime.torch_backend.kv_cache import LayerCache, LayerShape


class Recorder(Protocol):
    """Told of every kernel call while it is installed, and gives the memory for the outputs."""

    def empty(self, shape: Iterable[int]) -> torch.Tensor: ...

    def call(self, kernel: str, pointers: tuple[int | None, ...], numbers: tuple[int, ...], floats: tuple[float, ...]) -> None: ...


class _Thread(threading.local):
    recorder: Recorder | None = None


_thread = _Thread()


def record(recorder: Recorder | None) -> None:
    """Install a recorder for this thread, or take it away."""
    _thread.recorder = recorder


def available() -> bool:
    return kernels() is not None


@cache
def width() -> int:
    """Floats in one vector."""
    return int(_library().jitney_width())


def _library() -> ctypes.CDLL:
    library = kernels()
    assert library is not None, "callers ask available() first"
    return library


def _empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape) if _thread.recorder is None else _thread.recorder.empty(shape)


def _run(kernel: str, pointers: tuple[int | None, ...], numbers: tuple[int, ...], floats: tuple[float, ...] = ()) -> None:
    if _thread.recorder is not None:
        _thread.recorder.call(kernel, pointers, numbers, floats)
    getattr(_library(), f"jitney_{kernel}")(*pointers, *numbers, *floats, torch.get_num_threads())


# Rows of a weight that are packed or checked together, whole panels of every build: a wider copy of a whole vocabulary would be the most
# memory that a pod ever takes.
ROWS_AT_ONCE = 48 * 64


class Format(IntEnum):
    """How a weight is packed; the order is that of linear.c. Sums are float32 in the first three.

    WIDENED keeps weights as bfloat16 and inputs as float32, BFLOAT16 rounds both. INT8 has a scale per output, and one per 64 inputs of a
    row; INT4 has one per 32 inputs of each.
    """

    FLOAT32 = 0
    WIDENED = 1
    BFLOAT16 = 2
    INT8 = 3
    INT4 = 4


def has(form: Format) -> bool:
    """Whether the build for this CPU computes with such weights."""
    return available() and bool(_library().jitney_has_format(form))


@dataclass(frozen=True)
class Packed:
    """A weight [outs, ins] in the kernel's order. `row_bytes`: memory for a row of inputs in the form that the kernel multiplies, or 0."""

    data: torch.Tensor
    form: Format
    outs: int
    ins: int
    row_bytes: int


def pack(weight: torch.Tensor, form: Format = Format.FLOAT32) -> Packed:
    """[outs, ins], of any floating type."""
    library = _library()
    outs, ins = weight.shape
    data = torch.empty(library.jitney_packed_bytes(outs, ins, form), dtype=torch.uint8)
    for first in range(0, outs, ROWS_AT_ONCE):
        part = weight[first : first + ROWS_AT_ONCE].float().contiguous()
        place = data.data_ptr() + library.jitney_packed_bytes(first, ins, form)
        library.jitney_pack(part.data_ptr(), place, len(part), ins, form, torch.get_num_threads())
    return Packed(data, form, outs, ins, library.jitney_row_bytes(ins, form))


def linear(inputs: torch.Tensor, packed: Packed, bias: torch.Tensor | None) -> torch.Tensor:
    """inputs [..., ins] -> [..., outs]. A row's result does not depend on how many rows there are."""
    inputs = _float32(inputs).contiguous()
    rows = inputs.numel() // packed.ins
    output = _empty(*inputs.shape[:-1], packed.outs)
    scratch = _empty(rows, packed.row_bytes // 4) if packed.row_bytes else None
    places = (inputs, packed.data, bias, output, scratch)
    _run("linear", tuple(None if place is None else place.data_ptr() for place in places), (rows, packed.outs, packed.ins, packed.form))
    return output


def rms_norm(inputs: torch.Tensor, weight: torch.Tensor, epsilon: float, offset: float) -> torch.Tensor:
    """inputs [..., dim] / their root mean square x (weight [dim] + offset). [1, tokens, heads, dim] may have any strides but the last."""
    inputs, dim = _float32(inputs), inputs.shape[-1]
    if inputs.dim() == 4 and inputs.shape[0] == 1 and inputs.stride(-1) == 1:
        tokens, heads, token_stride, head_stride = inputs.shape[1], inputs.shape[2], inputs.stride(1), inputs.stride(2)
    else:
        inputs = inputs.contiguous()
        tokens, heads, token_stride, head_stride = inputs.numel() // dim, 1, dim, dim
    output = _empty(*inputs.shape)
    pointers = (inputs.data_ptr(), weight.data_ptr(), output.data_ptr())
    _run("rms_norm", pointers, (tokens, heads, token_stride, head_stride, dim), (epsilon, offset))
    return output


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """gate and up side by side [..., 2 x dim], contiguous -> silu(gate) x up [..., dim]; dim is a multiple of width()."""
    dim = gate_up.shape[-1] // 2
    output = _empty(*gate_up.shape[:-1], dim)
    _run("silu_mul", (gate_up.data_ptr(), output.data_ptr()), (output.numel() // dim, dim))
    return output


def rotary(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """states [1, heads, tokens, dim], any strides but the last, turned by cos and sin [1, tokens, dim]; dim is even."""
    states, cos, sin = _rows(states), cos.contiguous(), sin.contiguous()
    _, heads, tokens, dim = states.shape
    output = _empty(1, tokens, heads, dim)
    pointers = (states.data_ptr(), cos.data_ptr(), sin.data_ptr(), output.data_ptr())
    _run("rotary", pointers, (states.stride(2), states.stride(1), tokens, heads, dim))
    return output.transpose(1, 2)


def add(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Both contiguous and of the same shape."""
    output = _empty(*one.shape)
    _run("add", (one.data_ptr(), other.data_ptr(), output.data_ptr()), (one.numel(),))
    return output


def argmax(scores: torch.Tensor) -> list[int]:
    """scores [rows, count], contiguous -> the place of each row's highest."""
    places = torch.empty(len(scores), dtype=torch.long)
    _library().jitney_argmax(scores.data_ptr(), places.data_ptr(), *scores.shape, torch.get_num_threads())
    result: list[int] = places.tolist()
    return result


def serves(shape: LayerShape, heads: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the attention kernel computes such a layer, with queries of `dtype`; the cache is float32 or bfloat16."""
    if device.type != "cpu" or dtype is not torch.float32 or not available() or heads % shape.kv_heads:
        return False
    return bool(_library().jitney_attention_supports(heads // shape.kv_heads, shape.key_dim, shape.value_dim))


class PromptChunk(Protocol):
    """Tokens first..last of the step, the first of which is number `start` of its sequence; table [1, blocks]."""

    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def table(self) -> torch.Tensor: ...


class BlockStep:
    """The step that is running, as the attention kernel sees it: one object for all steps, so that its address stays."""

    def __init__(self) -> None:
        self._step = Step()
        self._kept: tuple[object, ...] = ()
        self.address = ctypes.addressof(self._step)

    def begin(
        self,
        slots: torch.Tensor,
        index: torch.Tensor | None,
        tables: torch.Tensor | None,
        lengths: torch.Tensor | None,
        prompts: Sequence[PromptChunk] = (),
    ) -> None:
        """slots [tokens]; index [rows], None when every token is a decoding row; tables [rows, blocks] and lengths [rows].

        The tensors are kept until the next step begins.
        """
        own = [prompt.table.contiguous() for prompt in prompts]
        listed = (Prompt * len(own))(
            *(
                Prompt(table.data_ptr(), prompt.first, prompt.last - prompt.first, prompt.start)
                for prompt, table in zip(prompts, own, strict=True)
            )
        )
        tensors = (slots, index, tables, lengths)
        self._kept = (tensors, own, listed)
        step = self._step
        step.slots, step.index, step.tables, step.lengths = (None if tensor is None else tensor.data_ptr() for tensor in tensors)
        step.tokens = len(slots)
        step.rows, step.width = (0, 0) if tables is None else tables.shape
        step.prompts, step.prompt_count = ctypes.addressof(listed), len(own)


class BlockAttention:
    """One layer's cache as the attention kernel sees it. Holds the cache, whose memory the kernel writes."""

    def __init__(self, cache: LayerCache, heads: int, scale: float, window: int | None) -> None:
        self._cache = cache
        self._heads = heads
        _, block_size, kv_heads, key_dim = cache.keys.shape
        self._value_dim = cache.values.shape[3]
        narrow = cache.keys.dtype is torch.bfloat16
        # Both lie in the same blocks.
        assert cache.keys.stride(0) == cache.values.stride(0)
        block_bytes = cache.keys.stride(0) * cache.keys.itemsize
        memory = (cache.keys.data_ptr(), cache.values.data_ptr())
        self._layer = Layer(*memory, heads, kv_heads, key_dim, self._value_dim, block_size, block_bytes, narrow, window or 0, scale)
        self._address = ctypes.addressof(self._layer)

    def store(self, step: BlockStep, keys: torch.Tensor, values: torch.Tensor) -> None:
        """keys and values [kv_heads, tokens, dim], any strides but the last, into the step's slots."""
        keys, values = _rows(keys), _rows(values)
        pointers = (self._address, step.address, keys.data_ptr(), values.data_ptr())
        _run("store", pointers, (keys.stride(1), keys.stride(0), values.stride(1), values.stride(0)))

    def attend(self, step: BlockStep, query: torch.Tensor) -> torch.Tensor:
        """query [heads, tokens, dim], any strides but the last -> [tokens, heads, value_dim], of the step's decoding rows and prompts; what
        they hold is stored."""
        query = _rows(query)
        output = _empty(query.shape[1], self._heads, self._value_dim)
        pointers = (self._address, step.address, query.data_ptr(), output.data_ptr())
        _run("attend", pointers, (query.stride(1), query.stride(0)))
        return output


def _float32(tensor: torch.Tensor) -> torch.Tensor:
    """As it is nearly always; a model's own code may turn its states into the dtype of its embeddings."""
    return tensor if tensor.dtype is torch.float32 else tensor.float()


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
