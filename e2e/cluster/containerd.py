"""A containerd of our own: configuration, socket and state apart from any other on the machine, images kept in the cache."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from cluster.binaries import cache_folder
from cluster.images import PAUSE_IMAGE
from cluster.processes import Processes

# Paths of Unix sockets end at 108 characters: a short folder, whatever the checkout is called.
RUN = Path("/run/jitney")
SOCKET = RUN / "containerd.sock"
NAMESPACE = "k8s.io"
START_SECONDS = 60

CONFIG = """\
version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  # The machine may lack CAP_SYS_RESOURCE, and then no process may lower this score.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{networks}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
"""


class Containerd:
    """Runs in `folder`; its images outlive it in the cache."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self.processes = processes
        self.root = cache_folder() / "containerd"
        self.state = RUN / "containerd"

    def start(self) -> None:
        RUN.mkdir(parents=True, exist_ok=True)
        config = self.folder / "containerd.toml"
        config.write_text(CONFIG.format(root=self.root, state=self.state, socket=SOCKET, pause=PAUSE_IMAGE, networks=self.folder / "net.d"))
        process = self.processes.start("containerd", ["containerd", "--config", config])
        self.processes.wait(process, self._answers, START_SECONDS)

    def _answers(self) -> bool:
        return SOCKET.exists() and subprocess.run(_ctr("version"), capture_output=True, check=False).returncode == 0

    def ctr(self, *arguments: str) -> str:
        """Output of one ctr command; RuntimeError with what it said."""
        done = subprocess.run(_ctr(*arguments), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"ctr {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    # Images (the Store that images.py hands to)

    def images(self) -> set[str]:
        """Full names, such as docker.io/library/jitney-runtime:0.1.0-abc."""
        return set(self.ctr("images", "ls", "-q").split())

    def blobs(self) -> set[str]:
        return set(self.ctr("content", "ls", "-q").split())

    @contextmanager
    def importing(self) -> Iterator[IO[bytes]]:
        """A stream that takes an OCI archive; it may lack blobs that are here already."""
        command = _ctr("images", "import", "--digests=false", "-")
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert child.stdin
        # When the pipe breaks, the reason stands on its standard error.
        with contextlib.suppress(BrokenPipeError):
            yield child.stdin
        _, error = child.communicate()
        if child.returncode:
            raise RuntimeError(f"containerd did not take the image: {error.decode().strip()}")

    def remove_image(self, name: str) -> None:
        self.ctr("images", "rm", name)

    def remove_nameless_images(self) -> None:
        """The kubelet's side keeps each image under its digest too; one that no name points to only holds disk."""
        rows = [line.split() for line in self.ctr("images", "ls").splitlines()[1:]]
        named = {row[2] for row in rows if not row[0].startswith("sha256:")}
        for name, _, digest, *_ in rows:
            if name.startswith("sha256:") and digest not in named:
                self.remove_image(name)

    # The end

    def clear(self) -> None:
        """Kill every container and sandbox of ours and release their network namespaces."""
        namespaces = self._network_namespaces()
        for name in self.ctr("tasks", "ls", "-q").split():
            subprocess.run(_ctr("tasks", "kill", "--signal", "SIGKILL", "--all", name), capture_output=True, check=False)
        self._delete_tasks()
        for name in self.ctr("containers", "ls", "-q").split():
            self.ctr("containers", "rm", name)
        for path in namespaces:
            subprocess.run(["umount", "--lazy", path], capture_output=True, check=False)
            Path(path).unlink(missing_ok=True)

    def _delete_tasks(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            names = self.ctr("tasks", "ls", "-q").split()
            if not names:
                return
            subprocess.run(_ctr("tasks", "rm", "--force", *names), capture_output=True, check=False)
            time.sleep(0.2)
        raise RuntimeError(f"containers did not end within 30 s: {names}")

    def _network_namespaces(self) -> set[str]:
        found = set()
        for name in self.ctr("containers", "ls", "-q").split():
            spec = json.loads(self.ctr("containers", "info", name)).get("Spec") or {}
            found |= {entry.get("path", "") for entry in spec.get("linux", {}).get("namespaces", []) if entry["type"] == "network"}
        return {path for path in found if "/netns/cni-" in path}


def unmount_below(*folders: Path) -> None:
    """Unmount everything below `folders`, the deepest first."""
    points = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    ours = [point for point in points if any(point.startswith(f"{folder}/") for folder in folders)]
    for point in sorted(ours, key=len, reverse=True):
        subprocess.run(["umount", "--lazy", point.encode().decode("unicode_escape")], capture_output=True, check=False)


def _ctr(*arguments: str) -> list[str]:
    return ["ctr", "--address", str(SOCKET), "--namespace", NAMESPACE, *arguments]


def cgroups() -> list[Path]:
    """The folders that the kubelet made for pods, the deepest first."""
    tops = [*Path("/sys/fs/cgroup").glob("kubepods"), *Path("/sys/fs/cgroup").glob("*/kubepods")]
    return sorted((Path(folder) for top in tops for folder, _, _ in os.walk(top)), key=lambda path: len(path.parts), reverse=True)
