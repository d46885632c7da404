"""What lies between the products, on a GPU: the counterparts of cpu_kernels' functions of the same names."""

from __future__ import annotations

import logging
from ctypes import c_float, c_int, c_longlong

import torch

from jitney_runtime.kernels.cuda.program import CompileError, Number, Program
from jitney_runtime.torch_backend.cuda_program import TYPES, program, stream

logger = logging.getLogger(__name__)

_THREADS = 128


def _of(tensor: torch.Tensor) -> Program:
    return program("elementwise.cu", tensor.device, TYPE=TYPES[tensor.dtype])


def available(device: torch.device) -> bool:
    """Whether the kernels can be built and loaded here; the log says why not."""
    try:
        for number in TYPES.values():
            program("elementwise.cu", device, TYPE=number)
    except (CompileError, OSError, RuntimeError) as error:
        logger.warning("norms, gates and rotary embeddings are computed by torch's operators: %s", error)
        return False
    return True


def rms_norm(inputs: torch.Tensor, weight: torch.Tensor, epsilon: float, offset: float) -> torch.Tensor:
    """inputs [..., dim] / their root mean square x (weight [dim] + offset). [1, tokens, heads, dim] may have any strides but the last."""
    dim = inputs.shape[-1]
    if inputs.dim() == 4 and inputs.shape[0] == 1 and inputs.stride(-1) == 1:
        tokens, heads, strides = inputs.shape[1], inputs.shape[2], (inputs.stride(1), inputs.stride(2))
    else:
        inputs = inputs.contiguous()
        tokens, heads, strides = inputs.numel() // dim, 1, (dim, dim)
    output = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
    if tokens * heads:
        places = [tensor.data_ptr() for tensor in (inputs, weight, output)]
        numbers: list[Number] = [*(c_longlong(stride) for stride in strides), c_int(heads), c_int(dim), c_float(epsilon), c_float(offset)]
        _of(inputs).launch("rms_norm", (tokens * heads, 1, 1), _THREADS, stream(), places, numbers)
    return output


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """gate and up side by side [..., 2 x dim] -> silu(gate) x up [..., dim]."""
    gate_up = gate_up.contiguous()
    dim = gate_up.shape[-1] // 2
    output = gate_up.new_empty(*gate_up.shape[:-1], dim)
    rows = output.numel() // dim
    if rows:
        _of(gate_up).launch(
            "silu_mul", (-(-dim // _THREADS), rows, 1), _THREADS, stream(), [gate_up.data_ptr(), output.data_ptr()], [c_int(dim)]
        )
    return output


def rotary(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """states [1, heads, tokens, dim], any strides but the last, turned by cos and sin [1, tokens, dim]; dim is even."""
    states, cos, sin = states if states.stride(-1) == 1 else states.contiguous(), cos.contiguous(), sin.contiguous()
    _, heads, tokens, dim = states.shape
    output = states.new_empty(1, tokens, heads, dim)
    if tokens:
        places = [tensor.data_ptr() for tensor in (states, cos, sin, output)]
        numbers: list[Number] = [c_longlong(states.stride(2)), c_longlong(states.stride(1)), c_int(heads), c_int(dim)]
        _of(states).launch("rotary", (tokens, 1, 1), _THREADS, stream(), places, numbers)
    return output.transpose(1, 2)
