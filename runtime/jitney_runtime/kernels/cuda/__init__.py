"""Kernels for a GPU: compiled at load by NVRTC, which torch's CUDA build brings, for the device that is there. No compiler is needed."""
