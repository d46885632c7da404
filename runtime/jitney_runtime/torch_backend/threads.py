"""How many threads torch may use: what this process may run on, not what the machine has."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

from jitney_runtime.kernels.library import kernels

# Looks at its barrier before one of OpenMP's threads sleeps: some 30 us instead of milliseconds.
_SPINS = "1000"
_V2 = Path("/sys/fs/cgroup/cpu.max")
_V1_QUOTA = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_V1_PERIOD = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


def cpu_limit() -> float | None:
    """The cgroup's CPU limit in cores, None without one."""
    try:
        if _V2.exists():
            quota, period = _V2.read_text().split()
        else:
            quota, period = _V1_QUOTA.read_text().strip(), _V1_PERIOD.read_text().strip()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def thread_count() -> int:
    cores = len(os.sched_getaffinity(0))
    limit = cpu_limit()
    return max(1, min(cores, round(limit)) if limit else cores)


def leave_cores_to_kernels(kernel: str, environment: MutableMapping[str, str]) -> None:
    """Before torch is imported: its OpenMP threads spin for milliseconds after their work, on the cores that our kernels' helpers need.

    Measured on 2 cores: a step of 16 rows 34 ms instead of 40. Who sets one of OpenMP's own variables knows better, and without our kernels
    the spinning is what makes torch fast.
    """
    if kernel in ("auto", "native") and kernels() is not None and "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _SPINS)
