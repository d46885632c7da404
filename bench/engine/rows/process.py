"""Rows 9 and 10: how soon a process is ready, and what it holds."""

from __future__ import annotations

import re
import statistics

from bench.engine import load
from bench.engine.bench import TOGETHER, Bench, Found
from bench.engine.checks import Check
from bench.engine.fleet import ROWS
from bench.engine.load import Failed, Side
from bench.engine.model import model_folder
from bench.engine.processes import Refused
from bench.engine.servers import NONE as SERVED
from bench.engine.servers import Server, serving

# Bytes for keys and values, which a round of chats fills nearly whole: what nobody wrote takes no memory. And the window that fits.
KEYS_AND_VALUES, WINDOW = 96_000_000, 256
BYTES = {"float32": 4, "bfloat16": 2}


def start(bench: Bench) -> Found:
    """Row 9. The weights are read once before, so that they are in the page cache."""
    bench.fleet.sides([])
    (model_folder() / "model.safetensors").read_bytes()
    seconds: list[float] = []
    words = ""
    try:
        for _ in range(bench.rounds):
            with serving(SERVED, ROWS, 2048, bench.scratch) as process:
                seconds.append(process.seconds)
    except Refused as error:
        words = str(error)
    found = statistics.median(seconds) if seconds and not words else None
    note = words or ", ".join(f"{one:.1f}" for one in seconds) + " s"
    return Found([Check("9", "process start to ready, weights in the page cache", found, "s", must=15.0, aim=11.0, most=True, note=note)])


def memory(bench: Bench) -> Found:
    """Row 10. After 64 chats; less one copy of the weights in the dtype they are served in, and the keys and values."""
    bench.fleet.sides([])
    what = "anonymous memory of all processes above weights and keys and values"
    server = Server(
        SERVED.peer, SERVED.setting, lambda place: [*SERVED.command(place), "--kv-cache-memory", str(KEYS_AND_VALUES)], SERVED.ready
    )
    try:
        with serving(server, ROWS, WINDOW, bench.scratch) as process:
            load.answers(Side(server, process), TOGETHER.chats(TOGETHER.count), ROWS)
            held, said = process.anonymous(), re.findall(r" on cpu as (?:torch\.)?(\w+)", process.log.read_text())
            count = len(process.members())
    except (Refused, Failed) as error:
        return Found([Check("10", what, None, "MB", must=700.0, aim=500.0, most=True, note=str(error))])
    dtype = said[-1]
    weights = (model_folder() / "model.safetensors").stat().st_size // 4 * BYTES[dtype]
    above = (held - weights - KEYS_AND_VALUES) / 1e6
    parts = f"{weights / 1e6:.0f} of weights ({dtype}), {KEYS_AND_VALUES / 1e6:.0f} of keys and values"
    note = f"{held / 1e6:.0f} MB in {count} processes: {parts}"
    return Found([Check("10", what, above, "MB", must=700.0, aim=500.0, most=True, note=note)])
