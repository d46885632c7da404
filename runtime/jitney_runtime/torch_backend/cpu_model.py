"""A loaded model made ready for a CPU: which kernel for which layer, what is fused, weights packed once."""

from __future__ import annotations

import torch
from torch import nn

from jitney_runtime.torch_backend.fusions import fuse
from jitney_runtime.torch_backend.linears import NativeLinear, choose_kernel, pack_linears


@torch.no_grad()
def use_kernels(model: nn.Module, kernel: str) -> None:
    """Change `model` in place. `kernel`: "plain" changes nothing, "onednn" and "native" pin one, "auto" takes what is fastest here."""
    chosen = choose_kernel(model, kernel)
    if chosen is NativeLinear:
        fuse(model)
    if chosen:
        pack_linears(model, chosen)
