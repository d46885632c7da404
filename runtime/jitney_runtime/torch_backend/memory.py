"""How much memory this process may still take, from the cgroup and the machine, in bytes."""

from __future__ import annotations

from pathlib import Path

import torch

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")
# On a GPU attention gathers the keys and values of a layer, which takes more.
_OF_OUR_OWN, _OF_A_GPU, _OF_SHARED = 0.97, 0.95, 0.7
_LEFT = 128 * 1024**2


def _read(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _cgroup_free() -> int | None:
    for limit, usage in ((_V2 / "memory.max", _V2 / "memory.current"), (_V1 / "memory.limit_in_bytes", _V1 / "memory.usage_in_bytes")):
        most, used = _read(limit), _read(usage)
        if most is not None and used is not None:
            return most - used + _reclaimable(limit.parent / "memory.stat")
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


def for_keys_and_values(device: torch.device) -> int:
    """What they may take once the weights are loaded; the rest is for activations, logits and the HTTP side.

    Of memory that is its own, a GPU or a container's limit, a little is left and at least _LEFT, which with what is in use by now
    is the overhead that the operator's estimate counts. Of a machine's more, because others take of it too.
    """
    if device.type == "cuda":
        return int(_OF_A_GPU * torch.cuda.mem_get_info(device)[0])
    machine, cgroup = _machine_free(), _cgroup_free()
    if cgroup is None or machine < cgroup:
        return int(_OF_SHARED * machine)
    return max(0, min(int(_OF_OUR_OWN * cgroup), cgroup - _LEFT))
