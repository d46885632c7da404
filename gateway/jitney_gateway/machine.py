"""One machine and what it has, and its shape in Xinference's cluster answers."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

DRIVER = Path("/proc/driver/nvidia/gpus")


@dataclass(frozen=True)
class Machine:
    """Memory in bytes. What a GPU holds is not known without its driver's own library."""

    cpus: int
    gpus: int
    memory: int
    free: int

    @classmethod
    def here(cls) -> Self:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        memory, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        return cls(len(os.sched_getaffinity(0)), _gpus(), memory, free)

    @property
    def address(self) -> str:
        """Asked of the resolver, which may take its time: only for those who want it."""
        try:
            return socket.gethostbyname(socket.gethostname())
        except OSError:
            return "127.0.0.1"

    def told(self, kind: str, detailed: bool) -> dict[str, Any]:
        """`kind` is Supervisor or Worker; the Supervisor has no devices of its own there."""
        found: dict[str, Any] = {"node_type": kind, "ip_address": self.address}
        found |= {"gpu_count": self.gpus if kind == "Worker" else 0, "gpu_vram_total": 0}
        if detailed:
            used = self.memory - self.free
            found |= {"gpu_vram_available": 0, "cpu_available": max(0.0, self.cpus - os.getloadavg()[0]), "cpu_count": self.cpus}
            found |= {"mem_used": used, "mem_available": self.free, "mem_total": self.memory, "gpu_utilization": None}
            found |= {"software_version": version("jitney")} if kind == "Worker" else {}
        return found


def _gpus() -> int:
    """Those that a runtime would see."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    there = len(list(DRIVER.iterdir())) if DRIVER.is_dir() else 0
    return there if visible is None else min(there, len([part for part in visible.split(",") if part.strip() not in ("", "-1")]))
