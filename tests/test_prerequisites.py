"""What is missing on a machine is said in one sentence, before anything is downloaded or built. The real `make demo` says it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# As a person's shell has it: a make inside of make would announce its folders, and a registry may be set where the suite runs.
SHELL = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "JITNEY_IMAGE_REGISTRY")}


def said_by_make(*prefix: str, verb: str = "demo", **environment: str) -> str:
    """Standard error of a verb that must fail, and must fail before it does anything."""
    command = [*prefix, "make", verb]
    done = subprocess.run(command, cwd=ROOT, env=SHELL | environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else to try it")
def test_somebody_who_is_not_root(tmp_path: Path):
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert said_by_make(*nobody).startswith("error: a Kubernetes on this machine needs root")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide the machine's Go")
def test_no_go_at_all(tmp_path: Path):
    """Its usual place is covered by an empty disk, for this one process."""
    hidden = "[ ! -d /usr/local/go ] || mount -t tmpfs tmpfs /usr/local/go"
    command = f"{hidden} && PATH={tmp_path} exec {sys.executable} -m cluster.machine go"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", command],
        env=SHELL | {"PYTHONPATH": str(ROOT / "e2e")},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this machine lets nobody hide a folder")
    assert done.returncode == 1
    assert done.stderr == "error: Go 1.26 or newer is needed to build Kubernetes and was not found: install it from go.dev/dl\n"


@pytest.mark.parametrize("kind", ["kind", "current"])
def test_another_cluster_without_buildah(kind: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "cluster", "up"],
        env=SHELL
        | {"PATH": str(tmp_path), "PYTHONPATH": str(ROOT / "e2e"), "JITNEY_CLUSTER": kind, "JITNEY_IMAGE_REGISTRY": "registry.example"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: JITNEY_CLUSTER=kind and current build the images with the program buildah: install it")


def test_an_older_go(tmp_path: Path):
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\necho go version go1.20 linux/amd64\n")
    go.chmod(0o755)
    # The Makefile puts the usual place of Go first; python's own search is what is asked here.
    done = subprocess.run(
        ["python3", "-m", "cluster.machine"],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "e2e")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: Go 1.26 or newer is needed to build Kubernetes and this is 'go version go1.20")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], check=False)
    if done.returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("verb", ["demo", "e2e", "cluster-up"])
def test_a_disk_that_is_too_small(small_disk: Path, verb: str):
    said = said_by_make(verb=verb, JITNEY_CACHE=str(small_disk))
    assert said.startswith("error: 30 GB of free disk are needed at ")
    assert said.endswith("free some, or set JITNEY_CACHE")


def test_an_unknown_kind_of_cluster():
    done = subprocess.run(["make", "cluster-up"], cwd=ROOT, env=SHELL | {"JITNEY_CLUSTER": "minikube"}, capture_output=True, text=True)
    assert "JITNEY_CLUSTER must be local, kind or current, not 'minikube'" in done.stderr


@pytest.mark.parametrize("kind", ["kind", "current"])
def test_another_cluster_without_a_registry(kind: str):
    done = subprocess.run(["make", "demo"], cwd=ROOT, env=SHELL | {"JITNEY_CLUSTER": kind}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "need JITNEY_IMAGE_REGISTRY" in done.stderr
