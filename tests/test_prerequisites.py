"""What is missing is said in one sentence, before anything is downloaded or built: the real `make`, in a checkout that has no environment.

A machine that lacks something is this one with a PATH of few programs. In place of uv stands one that only says that it was called: whoever
gets that far would have downloaded the environment.
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

ROOT = Path(__file__).parents[1]
HIDE_GO = f'[ ! -d /usr/local/go ] || {shutil.which("mount")} -t tmpfs tmpfs /usr/local/go && exec "$@"'
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


@pytest.fixture
def machine() -> Iterator[Machine]:
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


@pytest.fixture
def elsewhere(machine: Machine, tmp_path: Path) -> Machine:
    """Has all that JITNEY_CLUSTER=kind and current need."""
    for name in ("buildah", "kind"):
        machine.has(name)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("{}")
    machine.environment |= {"JITNEY_IMAGE_REGISTRY": "registry.example", "KUBECONFIG": str(kubeconfig)}
    return machine


@needs_root
@pytest.mark.parametrize("words", [("demo",), ("e2e",), ("cluster-up",), ("images",), ("bench-status",), ("-j4", "demo")])
def test_a_misspelt_cluster(machine: Machine, words: tuple[str, ...]):
    machine.environment["JITNEY_CLUSTER"] = "minikube"
    assert machine.refuses(*words) == "JITNEY_CLUSTER must be local, kind or current, not 'minikube'"


@needs_root
@pytest.mark.parametrize("kind", ["", "local", "kind", "current"])
def test_a_machine_that_lacks_nothing(elsewhere: Machine, kind: str):
    """Else the refusals below could have any reason."""
    elsewhere.environment["JITNEY_CLUSTER"] = kind
    assert elsewhere.goes_on("demo")


# Clusters elsewhere


@needs_root
@pytest.mark.parametrize("kind", ["kind", "current"])
def test_no_registry(elsewhere: Machine, kind: str):
    del elsewhere.environment["JITNEY_IMAGE_REGISTRY"]
    elsewhere.environment["JITNEY_CLUSTER"] = kind
    way_out = "set it to a registry that you can push to and the cluster can pull from"
    assert elsewhere.refuses("demo") == f"JITNEY_CLUSTER={kind} needs JITNEY_IMAGE_REGISTRY: {way_out}"


@needs_root
@pytest.mark.parametrize("kind", ["kind", "current"])
def test_no_buildah(elsewhere: Machine, kind: str):
    elsewhere.environment["JITNEY_CLUSTER"] = kind
    elsewhere.lacks("buildah")
    way_out = "install it (Debian: apt-get install buildah)"
    assert elsewhere.refuses("demo") == f"JITNEY_CLUSTER={kind} builds the images with the program buildah: {way_out}"


@needs_root
def test_no_kind(elsewhere: Machine):
    elsewhere.environment["JITNEY_CLUSTER"] = "kind"
    elsewhere.lacks("kind")
    assert elsewhere.refuses("demo") == "JITNEY_CLUSTER=kind needs the program kind: install it from kind.sigs.k8s.io"


@needs_root
def test_kind_without_a_docker_that_runs(elsewhere: Machine):
    elsewhere.environment["JITNEY_CLUSTER"] = "kind"
    elsewhere.has("kind", "echo 'ERROR: failed to list clusters: docker ps failed' >&2; echo 'is it running?' >&2; exit 1")
    start = "JITNEY_CLUSTER=kind needs a Docker (or Podman) that runs, and kind cannot use it: "
    assert elsewhere.refuses("demo") == f"{start}ERROR: failed to list clusters: docker ps failed is it running?"


@needs_root
def test_no_kubeconfig(elsewhere: Machine):
    elsewhere.environment["JITNEY_CLUSTER"] = "current"
    for wrong in ("/nowhere/config", ""):
        elsewhere.environment["KUBECONFIG"] = wrong
        there = wrong or elsewhere.folder / "home" / ".kube" / "config"
        expected = f"JITNEY_CLUSTER=current uses the cluster of your kubeconfig and there is none at {there}: set KUBECONFIG to yours"
        assert elsewhere.refuses("demo") == expected


# Every cluster


@needs_root
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("local", "a Kubernetes on this machine needs root"),
        ("kind", "JITNEY_CLUSTER=kind builds the images with buildah as root"),
        ("current", "JITNEY_CLUSTER=current builds the images with buildah as root"),
    ],
)
def test_somebody_who_is_not_root(elsewhere: Machine, kind: str, why: str):
    python = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")
    if not python:
        pytest.skip("the only Python of this machine is one that nobody else may run")
    elsewhere.lacks("python3")
    (elsewhere.programs / "python3").symlink_to(python)
    elsewhere.environment["JITNEY_CLUSTER"] = kind
    elsewhere.disguise = (shutil.which("setpriv") or "", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert elsewhere.refuses("demo") == f"{why}: run it as root (or with sudo)"


@pytest.fixture
def without_go(elsewhere: Machine) -> Machine:
    """Its usual place is covered by an empty disk, for this machine's processes alone."""
    elsewhere.disguise = (shutil.which("unshare") or "", "--mount", "/bin/sh", "-c", HIDE_GO, "sh")
    if subprocess.run([*elsewhere.disguise, "/bin/true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody hide a folder")
    elsewhere.lacks("go")
    return elsewhere


@needs_root
@pytest.mark.parametrize(("verb", "kind"), [("demo", "local"), ("demo", "kind"), ("demo", "current"), ("test", "local")])
def test_no_go_or_an_old_one(without_go: Machine, verb: str, kind: str):
    without_go.environment["JITNEY_CLUSTER"] = kind
    start = "Go 1.26 or newer is needed to build Kubernetes and"
    assert without_go.refuses(verb) == f"{start} was not found: install it from go.dev/dl"
    without_go.has("go", "echo go version go1.20 linux/amd64")
    assert without_go.refuses(verb) == f"{start} this is 'go version go1.20 linux/amd64': install it from go.dev/dl"


@needs_root
def test_what_apt_would_bring_where_there_is_no_apt(machine: Machine):
    machine.lacks("apt-get")
    said = machine.refuses("demo")
    assert said.startswith("these are missing and there is no apt-get to install them: containerd, runc, buildah, skopeo")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@needs_root
@pytest.mark.parametrize(
    ("verb", "kind"), [("demo", "local"), ("demo", "kind"), ("demo", "current"), ("e2e", "local"), ("cluster-up", "local")]
)
def test_a_disk_that_is_too_small(elsewhere: Machine, small_disk: Path, verb: str, kind: str):
    cache = small_disk / "not" / "there" / "yet"
    elsewhere.environment |= {"JITNEY_CACHE": str(cache), "JITNEY_CLUSTER": kind}
    assert elsewhere.refuses(verb) == f"30 GB of free disk are needed at {cache} and 0 GB are there: free some, or set JITNEY_CACHE"


@needs_root
def test_a_checkout_on_a_disk_that_is_too_small(machine: Machine, small_disk: Path):
    """Where JITNEY_CACHE lies on a large one."""
    machine.environment["JITNEY_CACHE"] = str(machine.folder / "cache")
    machine.checkout = shutil.copytree(machine.checkout, small_disk / "checkout")
    said = machine.refuses("demo")
    assert said == f"6 GB of free disk are needed at {machine.checkout} and 0 GB are there: free some, or move the checkout"
