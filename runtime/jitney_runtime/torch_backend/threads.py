"""How many threads torch may use: what this process may run on, not what the machine has."""

from __future__ import annotations

import os
from pathlib import Path

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
