"""Compiles runtime/jitney_runtime/kernels, one library per instruction set: hatch's build hook, so that every install holds them.

zig is clang in a wheel of PyPI: the same compiler everywhere, and no system package to install first.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCES = Path("runtime/jitney_runtime/kernels")
# What the file is called, and the CPU as zig spells it. The first level with AVX-512 knows floats only, the next multiplies bytes and
# bfloat16 too (Ice Lake has the bytes alone and takes the first).
_LEVELS = {
    "x86-64-v3": "x86_64_v3",
    "x86-64-v4": "x86_64_v4",
    "x86-64-v4-bf16": "x86_64_v4+avx512vnni+avx512bf16",
}
# An old glibc on purpose: the one of torch's own wheels.
_TARGET = "x86_64-linux-gnu.2.28"
_FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-mprefer-vector-width=512", "-Wall", "-Wextra", "-Werror"]
_SHARED = ["-shared", "-fPIC", "-fvisibility=hidden", "-s", "-lpthread"]


class KernelsHook(BuildHookInterface[Any]):
    """Elsewhere than on x86-64 Linux nothing is built, and the runtime keeps to torch's operators."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        return ["ziglang>=0.15,<0.18"] if _buildable() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel" or not _buildable():
            return
        folder = Path(self.root) / _SOURCES
        (folder / "lib").mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory() as cache:
            for level, cpu in _LEVELS.items():
                _compile(folder, level, cpu, cache)
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-manylinux_2_28_x86_64"


def _buildable() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64"


def _compile(folder: Path, level: str, cpu: str, cache: str) -> None:
    output = folder / "lib" / f"kernels-{level}.so"
    command = [sys.executable, "-m", "ziglang", "cc", "-target", _TARGET, f"-mcpu={cpu}", *_FLAGS, *_SHARED, "-o", str(output)]
    environment = {"PATH": "/usr/bin:/bin", "ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache, "HOME": cache}
    subprocess.run([*command, *sorted(str(path) for path in folder.glob("*.c"))], check=True, env=environment)
