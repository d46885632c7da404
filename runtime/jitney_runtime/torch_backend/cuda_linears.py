"""Linear layers on a GPU whose weights are kept as 8 or 4 bits, made at load; inputs and outputs stay the model's own floats.

Few rows, as in a decode step, are multiplied by our own kernel (kernels/cuda/linear.cu), which reads each weight once as it is kept. Many
rows are worth a library's product: a slab of weights is unpacked for it, and nobody keeps that.
"""

from __future__ import annotations

from ctypes import c_int
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import linear, pad

from jitney_runtime.torch_backend.cuda_program import TYPES, program, stream

_FLOATS = (torch.bfloat16, torch.float16)
# linear.cu: inputs and outputs are padded to whole segments and columns; threads of a block; inputs that share an int4's scale.
_SEGMENT, _COLUMNS, _THREADS, _GROUP = 64, 16, 256, 32
# Rows of the kernels that take so many.
_KERNELS = ((16, "linear_16"), (32, "linear_32"), (64, "linear_64"))
_SLAB_BYTES = 64 * 2**20
# Outputs that are packed at once: float32 copies of a whole vocabulary would be the most memory that is ever taken.
OUTS_AT_ONCE = 4096


class Packed(NamedTuple):
    """A weight as linear.cu reads it: bytes [padded outs, padded ins x bits / 8]; int8: scales [padded outs]; int4: groups
    [padded outs, padded ins / 32], a lowest value and a scale, both bfloat16, in each int32."""

    data: torch.Tensor
    groups: torch.Tensor | None
    scales: torch.Tensor | None
    bits: int


def pack(weight: torch.Tensor, bits: int, device: torch.device) -> Packed:
    """[outs, ins] of any float, on any device -> the same in 8 or 4 bits on `device`."""
    outs, ins = weight.shape
    parts = []
    for first in range(0, outs, OUTS_AT_ONCE):
        part = weight[first : first + OUTS_AT_ONCE].to(device).float()
        part = pad(part, (0, -ins % _SEGMENT, 0, -len(part) % _COLUMNS))
        parts.append(_eight(part) if bits == 8 else _four(part))
    data, found = (torch.cat(same) for same in zip(*parts, strict=True))
    return Packed(data, None if bits == 8 else found, found if bits == 8 else None, bits)


def _eight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scales = weight.abs().amax(dim=1) / 127
    whole = (weight / scales.clamp(min=1e-30)[:, None]).round().clamp(-127, 127)
    return (whole + 128).to(torch.uint8), scales


def _four(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    grouped = weight.view(len(weight), -1, _GROUP)
    lowest = grouped.amin(dim=2).bfloat16()
    scales = ((grouped.amax(dim=2) - lowest.float()) / 15).bfloat16()
    whole = ((grouped - lowest.float()[..., None]) / scales.float().clamp(min=1e-30)[..., None]).round().clamp(0, 15).to(torch.uint8)
    pairs = whole.view(len(weight), -1, 2)
    # int16 of the bits, side by side, as one int32: the scale is the lower half.
    words = torch.stack((scales, lowest), dim=-1).view(torch.int32).squeeze(-1)
    return pairs[..., 0] | (pairs[..., 1] << 4), words


class QuantizedLinear(nn.Module):
    """A linear layer with weights of `bits` bits."""

    def __init__(self, source: nn.Linear, bits: int, device: torch.device) -> None:
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        self.dtype = source.weight.dtype
        self.bias = None if source.bias is None else source.bias.detach().to(device)
        self.packed = pack(source.weight.detach(), bits, device)
        self._program = program("linear.cu", device, TYPE=TYPES[self.dtype], BITS=bits)
        self._padded = -(-self.in_features // _SEGMENT) * _SEGMENT
        self._slab = max(_COLUMNS, _SLAB_BYTES // (2 * self.in_features))

    @staticmethod
    def takes(source: nn.Linear) -> bool:
        return source.in_features % 8 == 0 and source.weight.dtype in _FLOATS

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """inputs [..., ins] -> [..., outs]."""
        rows = inputs.to(self.dtype).reshape(-1, self.in_features).contiguous()
        output = self._few(rows) if len(rows) <= _KERNELS[-1][0] else self._many(rows)
        return output.view(*inputs.shape[:-1], self.out_features)

    def _few(self, rows: torch.Tensor) -> torch.Tensor:
        kernel = next(name for most, name in _KERNELS if len(rows) <= most)
        output = rows.new_empty(len(rows), self.out_features)
        if len(rows):
            packed = self.packed
            places = (rows, packed.data, packed.groups, packed.scales, self.bias, output)
            numbers = (len(rows), self.in_features, self._padded, self.out_features)
            grid = (-(-self.out_features // _COLUMNS), 1, 1)
            self._program.launch(kernel, grid, _THREADS, stream(), _addresses(*places), [*map(c_int, numbers)])
        return output

    def _many(self, rows: torch.Tensor) -> torch.Tensor:
        if self.out_features <= self._slab:
            return linear(rows, self.unpacked(0, self.out_features), self.bias)
        output = rows.new_empty(len(rows), self.out_features)
        for first in range(0, self.out_features, self._slab):
            last = min(first + self._slab, self.out_features)
            bias = None if self.bias is None else self.bias[first:last]
            output[:, first:last] = linear(rows, self.unpacked(first, last), bias)
        return output

    def unpacked(self, first: int, last: int) -> torch.Tensor:
        """The weights of outputs first..last as the kernel takes them, [last - first, ins]."""
        packed = self.packed
        output = torch.empty(last - first, self.in_features, dtype=self.dtype, device=packed.data.device)
        # The grid is this high at most.
        for start in range(first, last, 65535):
            count = min(65535, last - start)
            places = (packed.data, packed.groups, packed.scales, output[start - first :])
            grid = (-(-self.in_features // (16 * 128)), count, 1)
            self._program.launch("unpack", grid, 128, stream(), _addresses(*places), [*map(c_int, (start, self.in_features, self._padded))])
        return output


def _addresses(*tensors: torch.Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
