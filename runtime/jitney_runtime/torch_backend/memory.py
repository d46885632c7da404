"""How much memory this process may still take, from the cgroup and the machine, in bytes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")
# Of a machine that others use, unless it is told otherwise.
_OF_SHARED = 0.7
# Bytes at least, and a share of what is in use. On a GPU recorded steps and the libraries' work space are still to come.
_LEFT, _LEFT_OF_TAKEN = 128 * 1024**2, 0.05
_LEFT_ON_GPU = 768 * 1024**2


class Memory(NamedTuple):
    """Bytes; what can be reclaimed is free."""

    free: int
    taken: int


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _cgroup() -> Memory | None:
    for limit, usage in ((_V2 / "memory.max", _V2 / "memory.current"), (_V1 / "memory.limit_in_bytes", _V1 / "memory.usage_in_bytes")):
        most, used = _read(limit), _read(usage)
        if most is not None and used is not None:
            taken = used - _reclaimable(limit.parent / "memory.stat")
            return Memory(most - taken, taken)
    return None


def _reclaimable(stat: Path) -> int:
    """Page cache counts as used in a cgroup and is given back under pressure; a mapped checkpoint is mostly that."""
    try:
        lines = dict(line.split() for line in stat.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    return int(lines.get("inactive_file", 0)) + int(lines.get("active_file", 0))


def _machine_free() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable line")


def for_keys_and_values(device: torch.device, share: float | None = None) -> int:
    """What they may take once the weights are loaded; the rest is for activations, logits and the HTTP side.

    Of memory that is its own, a GPU or a container's limit, all but a little, which with what is in use by now is at most the overhead that
    the operator's estimate counts. Of a machine's less, because others take of it too. `share` of what is free where somebody knows better.
    """
    own = _of_gpu(device) if device.type == "cuda" else _cgroup()
    machine = _machine_free()
    if device.type != "cuda" and (own is None or machine < own.free):
        return int((share or _OF_SHARED) * machine)
    assert own is not None
    left = _LEFT_ON_GPU if device.type == "cuda" else _LEFT
    return int(share * own.free) if share else max(0, own.free - max(left, int(_LEFT_OF_TAKEN * own.taken)))


def _of_gpu(device: torch.device) -> Memory:
    free, total = torch.cuda.mem_get_info(device)
    return Memory(free, total - free)
