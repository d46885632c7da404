"""A machine that lacks something: this one, with a checkout that has no environment, a home of its own and a PATH of few programs.

In place of uv stands one that only says that it was called: whoever gets that far would have downloaded the environment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTED = "uv was called"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change what this machine has")


@dataclass
class Machine:
    """A checkout as git has it, a home, and the programs on the PATH."""

    folder: Path
    disguise: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What the Makefile puts first on the PATH is the place of Go and this one.
        self.programs = self.folder / "home" / ".local" / "bin"
        self.programs.mkdir(parents=True)
        self.checkout = self.folder / "checkout"
        shutil.copytree(ROOT / "e2e", self.checkout / "e2e", ignore=shutil.ignore_patterns("__pycache__"))
        (self.checkout / "runtime").mkdir()
        for name in ("Makefile", "pyproject.toml", "uv.lock", "runtime/build_kernels.py"):
            shutil.copy(ROOT / name, self.checkout / name)
        for name, place in (("bash", "/bin/bash"), ("python3", os.path.realpath(sys.executable)), ("go", shutil.which("go"))):
            (self.programs / name).symlink_to(place or "/nowhere")
        self.has("uv", f"echo {NOTED} >&2; exit 9")
        # What apt would bring is no matter here; that it is there to bring it, is.
        self.has("apt-get", "exit 9")

    def has(self, name: str, script: str = "exit 0") -> None:
        program = self.programs / name
        program.unlink(missing_ok=True)
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)

    def lacks(self, name: str) -> None:
        (self.programs / name).unlink()

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [*self.disguise, shutil.which("make") or "make", *words]
        environment = {"PATH": str(self.programs), "HOME": str(self.folder / "home"), **self.environment}
        return subprocess.run(command, cwd=self.checkout, env=environment, capture_output=True, text=True, check=False, timeout=60)

    def refuses(self, *words: str) -> str:
        """The one sentence that is all that came of it."""
        before = self._files()
        done = self.make(*words)
        assert done.returncode != 0
        assert done.stdout == ""
        lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
        assert len(lines) == 1, done.stderr
        assert self._files() == before
        return lines[0].removeprefix("error: ")

    def goes_on(self, *words: str) -> bool:
        """To the environment, and no further: what stands in for uv fails."""
        done = self.make(*words)
        assert done.returncode != 0
        return NOTED in done.stderr

    def _files(self) -> set[Path]:
        """But what Python and Go note for themselves."""
        return {path for path in self.folder.rglob("*") if not {"__pycache__", ".config"} & set(path.parts)}


@contextmanager
def bare_machine() -> Iterator[Machine]:
    # Not below pytest's folders, which nobody but their owner may read.
    with tempfile.TemporaryDirectory(prefix="jitney-machine-") as folder, large_disk(Path(folder)):
        Path(folder).chmod(0o755)
        yield Machine(Path(folder))


@contextmanager
def large_disk(folder: Path) -> Iterator[None]:
    """At `folder`, whatever this machine has left: as large as it says, and empty. Where nobody may mount one, this machine's own it is."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=100g,mode=0755", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
