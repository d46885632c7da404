"""What figures belong to: the machine, and what ran on it."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

from bench.engine.servers import PEERS, WHAT_TO_NAME
from jitney_runtime.torch_backend.threads import thread_count

ROOT = Path(__file__).resolve().parents[2]


def _cpuinfo(name: str) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


@cache
def cpu_flags() -> frozenset[str]:
    return frozenset(_cpuinfo("flags").split())


def described() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    told = sorted(cpu_flags() & {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16"})
    return f"{thread_count()} cores of {_cpuinfo('model name')} ({', '.join(told)}), {memory:.0f} GiB, Linux {platform.release()}"


def versions(peers: tuple[str, ...]) -> str:
    """Ours with its commit, then those of the peers that are installed."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    ours = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    found = [f"jitney {version('jitney')} (commit {commit}, Python {platform.python_version()}, {ours})"]
    for peer in peers:
        environment = PEERS[peer][0].environment
        if environment is not None and environment.ready:
            found.append(", ".join(f"{name} {number}" for name, number in environment.versions(*WHAT_TO_NAME[peer]).items()))
    return "; ".join(found)


@cache
def subject(runtime: bool = True) -> str:
    """Changes with the machine, the bench, our packages and, where it is about it, the runtime: what was measured otherwise is no row of
    this run."""
    digest = hashlib.sha256(described().encode())
    sources = [*(ROOT / "bench" / "engine").rglob("*"), ROOT / "uv.lock"]
    if runtime:
        sources += (ROOT / "runtime" / "jitney_runtime").rglob("*")
    for file in sorted(sources):
        if file.suffix in (".py", ".c", ".h", ".cu", ".lock", ".txt"):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
