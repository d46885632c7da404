"""Would a model find the memory it needs on this machine, before a process is started for it."""

from __future__ import annotations

import contextlib
from functools import cache
from pathlib import Path

from jitney_gateway.catalogue import Entry
from jitney_gateway.errors import GatewayError
from jitney_gateway.fit import Fit, Verdict
from jitney_gateway.launch import Launch
from jitney_gateway.machine import Machine

# Of a number: float32, and bfloat16, which the runtime keeps unless a launch or the machine says otherwise.
WIDE, NARROW = 4, 2
# What the runtime's own kernels need at least, in the words of /proc/cpuinfo.
KERNELS = {"avx2", "bmi2", "fma"}
# Of a weight in a quantized linear layer, its scale included; keys and values, and the table of the vocabulary, are bfloat16 beside them.
QUANTIZED = {"int8": 1 + 4 / 512, "int4": 20 / 32}
# Both processes, torch and activations.
OVERHEAD = 576 * 1024**2
# The runtime makes room for as many keys and values as there is memory for: at least one answer of this many tokens.
SHORTEST = 512
GIB = 1024**3


def available() -> int:
    """Bytes that new processes can have without swapping."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def taken(pid: int | None) -> int:
    """Bytes of their own that a process and those it made have already; 0 where it is gone. Pages of files are no loss: the system takes
    them back."""
    own, made = 0, []
    with contextlib.suppress(OSError, KeyError, ValueError, IndexError):
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        own = int(lines["RssAnon"].split()[0]) * 1024
        # Not every kernel tells them.
        made = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return own + sum(taken(int(child)) for child in made)


def needs(launch: Launch, entry: Entry) -> int:
    """Bytes of one replica; 0 where it is a GPU that holds it."""
    if _on_gpu(launch):
        return 0
    tokens = launch.max_model_len or min(SHORTEST, entry.context)
    return _weights(launch, entry) + tokens * entry.kv_elements * _bytes(launch) + OVERHEAD


def fit(launch: Launch, entry: Entry, free: int, promised: int = 0) -> Fit:
    """For all its replicas, out of `free` bytes, of which models that are loading will take `promised`. What a GPU holds is not known
    here."""
    if _on_gpu(launch):
        return Fit(Verdict.UNKNOWN, "what a GPU holds is known once the model is loaded")
    each, count = needs(launch, entry), launch.replicas
    several = f"for {count} replicas of {each / GIB:.1f} each " if count > 1 else ""
    loading = f", of which models that are loading will take {promised / GIB:.1f}" if promised else ""
    weights = f"(weights {_weights(launch, entry) / GIB:.1f})"
    needed = f"{entry.name} {entry.size}".rstrip() + f" needs {each * count / GIB:.1f} GiB {several}{weights}"
    figures = f"{needed} and this machine has {free / GIB:.1f} GiB free{loading}"
    if each * count > free - promised:
        fewer = "fewer replicas, " if count > 1 else ""
        way_out = f"take {fewer}a smaller size, lower context_length, or terminate another model"
        return Fit(Verdict.DOES_NOT_FIT, f"{figures}: {way_out}")
    return Fit(Verdict.FITS, figures)


def check(launch: Launch, entry: Entry, free: int, promised: int = 0) -> None:
    """GatewayError (503) with the figures where the model cannot fit into `free` bytes."""
    found = fit(launch, entry, free, promised)
    if found.verdict is Verdict.DOES_NOT_FIT:
        raise GatewayError(503, found.message, code="does_not_fit")


def _on_gpu(launch: Launch) -> bool:
    """The runtime takes one by itself where there is one; told by the driver, which a torch without CUDA does not use."""
    return launch.device == "cuda" or (launch.device == "auto" and Machine.here().gpus > 0)


def _weights(launch: Launch, entry: Entry) -> int:
    """As the operator's estimate has it on a CPU. Where only the number of weights is known, at least so many."""
    width = _bytes(launch)
    layer, score = (QUANTIZED[launch.quantization], QUANTIZED["int8"]) if launch.quantization in QUANTIZED else (width, width)
    own = 0 if entry.tied else entry.scores
    rest = max(0, entry.parameters - entry.table - own)
    wide = min(entry.wide, rest)
    delicate = min(entry.delicate, rest - wide) if launch.quantization == "int4" and entry.scores else 0
    layers = (rest - wide - delicate) * layer + delicate * QUANTIZED["int8"]
    return int(layers + entry.scores * score) + entry.table * width + wide * WIDE


def _bytes(launch: Launch) -> int:
    """Of what is not quantized."""
    exact = launch.dtype == "float32" or (launch.dtype in (None, "auto") and not has_kernels())
    return WIDE if exact and launch.quantization not in QUANTIZED else NARROW


@cache
def has_kernels() -> bool:
    """Whether the runtime multiplies bfloat16 with kernels of its own on this machine; with torch's it computes in float32."""
    return set(Path("/proc/cpuinfo").read_text().split()) >= KERNELS
