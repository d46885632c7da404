"""Programs for the device that torch uses: compiled once, for its architecture, where its context is."""

from __future__ import annotations

from functools import cache

import torch

from jitney_runtime.kernels.cuda.program import Program

# floats.cuh's TYPE.
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


@cache
def program(source: str, device: torch.device, **constants: int) -> Program:
    """CompileError where it does not compile, OSError where there is nothing to compile it with, RuntimeError where the driver refuses."""
    major, minor = torch.cuda.get_device_capability(device)
    # Whatever came before, the device's context is there now.
    torch.cuda.synchronize(device)
    return Program(source, constants, f"sm_{major}{minor}")


def stream() -> int:
    """The current one, as the driver takes it."""
    return int(torch.cuda.current_stream().cuda_stream)
