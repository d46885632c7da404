"""What is missing is said in one sentence, before anything is downloaded or built: the real `make`, where there is no environment."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from support.machine import Machine, needs_root

HIDE_GO = f'[ ! -d /usr/local/go ] || {shutil.which("mount")} -t tmpfs tmpfs /usr/local/go && exec "$@"'


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
