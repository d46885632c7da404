"""Would a model find the memory it needs on this machine, before a process is started for it."""

from __future__ import annotations

from pathlib import Path

from jitney_gateway.catalogue import Entry
from jitney_gateway.errors import GatewayError
from jitney_gateway.fit import Fit, Verdict
from jitney_gateway.launch import Launch

# float32, as the runtime computes on a CPU.
BYTES = 4
# Interpreter, torch and activations.
OVERHEAD = 512 * 1024**2
# The runtime makes room for as many keys and values as there is memory for: at least one answer of this many tokens.
SHORTEST = 512
GIB = 1024**3


def available() -> int:
    """Bytes that new processes can have without swapping."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def fit(launch: Launch, entry: Entry, free: int) -> Fit:
    """For one replica, out of `free` bytes. What a GPU holds is not known here."""
    if launch.device == "cuda":
        return Fit(Verdict.UNKNOWN, "what a GPU holds is known once the model is loaded")
    weights = entry.parameters * BYTES
    tokens = launch.max_model_len or min(SHORTEST, entry.context)
    needs = weights + tokens * entry.kv_elements * BYTES + OVERHEAD
    figures = (
        f"{entry.name} {entry.size} needs {needs / GIB:.1f} GiB (weights {weights / GIB:.1f}) and this machine has "
        f"{free / GIB:.1f} GiB free"
    )
    if needs > free:
        way_out = "take a smaller size, lower context_length, or terminate another model"
        return Fit(Verdict.DOES_NOT_FIT, f"{figures}: {way_out}")
    return Fit(Verdict.FITS, figures)


def check(launch: Launch, entry: Entry, free: int) -> None:
    """GatewayError (503) with the figures where the model cannot fit into `free` bytes."""
    found = fit(launch, entry, free)
    if found.verdict is Verdict.DOES_NOT_FIT:
        raise GatewayError(503, found.message, code="does_not_fit")
