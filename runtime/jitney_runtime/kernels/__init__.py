"""Kernels for the CPU in C: what memory bandwidth limits and torch's operators do not reach. No torch in here, pointers only."""
