"""Rows 9 and 10: how soon a process is ready, and what it holds."""

from __future__ import annotations

import re
import statistics
from pathlib import Path

from bench.engine import load
from bench.engine.bench import TOGETHER, Bench, Found
from bench.engine.checks import Check
from bench.engine.fleet import ROWS
from bench.engine.load import Failed, Side
from bench.engine.model import model_folder
from bench.engine.processes import Refused
from bench.engine.servers import INT4, INT8, Server, serving
from bench.engine.servers import NONE as SERVED

# Bytes for keys and values, which a round of chats fills nearly whole: what nobody wrote takes no memory. And the window that fits.
KEYS_AND_VALUES, WINDOW = 96_000_000, 256
BYTES = {"float32": 4, "bfloat16": 2}


def start(bench: Bench) -> Found:
    """Row 9. The weights are read once before, so that they are in the page cache. What is rounded at load is told and not judged."""
    bench.fleet.sides([])
    (model_folder() / "model.safetensors").read_bytes()
    what = "process start to ready, weights in the page cache"
    found, note = _started(SERVED, bench.rounds, bench.scratch)
    checks = [Check("9", what, found, "s", must=15.0, aim=11.0, most=True, note=note)]
    for server in (INT8, INT4):
        found, note = _started(server, 1, bench.scratch)
        checks.append(Check("9", f"the same, {server.setting}", found, "s", most=True, note=note))
    return Found(checks)


def _started(server: Server, times: int, scratch: Path) -> tuple[float | None, str]:
    """Seconds to ready, the median, and each of them in words; None and its words where it refuses."""
    seconds: list[float] = []
    try:
        for _ in range(times):
            with serving(server, ROWS, 2048, scratch) as process:
                seconds.append(process.seconds)
    except Refused as error:
        return None, str(error)
    return statistics.median(seconds), ", ".join(f"{one:.1f}" for one in seconds) + " s"


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
