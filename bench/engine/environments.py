"""A Python environment for each peer, in the cache: none can be installed beside another, or beside this project."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.engine.progress import telling
from cluster.binaries import cache_folder

# An install that hangs must end.
INSTALL_SECONDS = 1800
# Bytes that stay free on the disk.
LEFT = 10 * 1000**3


class NotInstalled(Exception):
    """Why a peer cannot be had, in one sentence."""


@dataclass(frozen=True)
class Environment:
    """`packages` as pip takes them; `overrides` replace what they ask for themselves. `gigabytes` on the disk, at most."""

    name: str
    packages: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    gigabytes: float = 1.0

    @property
    def folder(self) -> Path:
        """Another list of packages is another environment."""
        digest = hashlib.sha256(repr((self.packages, self.overrides)).encode()).hexdigest()
        return peers_folder() / f"{self.name}-{digest[:12]}"

    @property
    def programs(self) -> Path:
        return self.folder / "bin"

    @property
    def ready(self) -> bool:
        return (self.folder / "ready").exists()

    def install(self) -> None:
        """Once; NotInstalled with the installer's last words. An earlier list's environment is removed."""
        if self.ready:
            return
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        for old in self.folder.parent.glob(f"{self.name}-*"):
            shutil.rmtree(old)
        if (free := shutil.disk_usage(self.folder.parent).free - LEFT) < 1e9 * self.gigabytes:
            raise NotInstalled(f"{self.name} takes {self.gigabytes:g} GB and {free / 1e9:.1f} GB of the disk may be used for it")
        with telling(f"installing {self.name} into {self.folder}"):
            self._run("uv", "venv", "--quiet", "--python", sys.executable, str(self.folder))
            command = ["uv", "pip", "install", "--quiet", "--python", str(self.programs / "python"), *self.packages]
            if self.overrides:
                file = self.folder / "overrides.txt"
                file.write_text("\n".join(self.overrides) + "\n")
                command += ["--override", str(file)]
            self._run(*command)
        (self.folder / "ready").touch()

    def _run(self, *command: str) -> None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise NotInstalled(f"installing {self.name} was not done after {INSTALL_SECONDS} s") from None
        if done.returncode:
            raise NotInstalled(f"{self.name} cannot be installed: {' '.join(done.stderr.split())[-500:]}")

    def versions(self, *names: str) -> dict[str, str]:
        """Of the packages that are there."""
        code = "import importlib.metadata as m, sys\nfor n in sys.argv[1:]:\n try: print(n, m.version(n))\n except Exception: pass"
        done = subprocess.run([str(self.programs / "python"), "-c", code, *names], capture_output=True, text=True, check=False)
        return dict(line.split(" ", 1) for line in done.stdout.splitlines())


def peers_folder() -> Path:
    return cache_folder() / "peers"


def with_programs(environment: Environment) -> dict[str, str]:
    """Variables that have the environment's own programs found first."""
    return {"PATH": f"{environment.programs}{os.pathsep}{os.environ.get('PATH', '')}", "VIRTUAL_ENV": str(environment.folder)}
