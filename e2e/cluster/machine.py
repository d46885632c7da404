"""What this machine must have before anything is built, by the cluster that JITNEY_CLUSTER names; what apt can bring is brought.

Standard library only: `make` asks it before any Python environment exists.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from cluster.binaries import cache_folder, go_command
from cluster.progress import Step

KINDS = ("local", "kind", "current")
CHECKOUT = Path(__file__).resolve().parents[2]
DISK_GIGABYTES = 30
# Of those, what lies in the checkout: torch.
ENVIRONMENT_GIGABYTES = 6
GO_VERSION = (1, 26)
# program -> Debian package
PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "skopeo": "skopeo",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "git": "git",
}
CNI = Path("/usr/lib/cni/bridge")


class NotReady(RuntimeError):
    """The machine lacks something that only a person can give; the message is one sentence."""


def kind() -> str:
    """The cluster that JITNEY_CLUSTER names: local (default), kind, or current; NotReady for another word."""
    name = os.environ.get("JITNEY_CLUSTER") or "local"
    if name not in KINDS:
        raise NotReady(f"JITNEY_CLUSTER must be local, kind or current, not {name!r}")
    return name


def image_registry() -> str:
    """Where clusters other than the local one get our images from; NotReady when nobody said."""
    registry = os.environ.get("JITNEY_IMAGE_REGISTRY", "").rstrip("/")
    if not registry:
        raise NotReady(
            f"JITNEY_CLUSTER={kind()} needs JITNEY_IMAGE_REGISTRY: set it to a registry that you can push to and the cluster can pull from"
        )
    return registry


def check() -> None:
    """NotReady for the first thing that is missing; installs packages when they are all that is."""
    check_what_only_a_person_can_give()
    if kind() == "local":
        _install_packages()


def check_what_only_a_person_can_give() -> None:
    """NotReady for the first thing that is missing; changes nothing."""
    match kind():
        case "local":
            _check_root("a Kubernetes on this machine needs root")
            _check_cgroups()
            _check_packages()
        case "kind":
            _check_image_building()
            _check_kind()
        case "current":
            _check_image_building()
            _check_kubeconfig()
    _check_go()
    _check_disk()


def _check_root(why: str) -> None:
    if os.geteuid() != 0:
        raise NotReady(f"{why}: run it as root (or with sudo)")


def _check_cgroups() -> None:
    if not Path("/sys/fs/cgroup/memory").is_dir() and not Path("/sys/fs/cgroup/cgroup.controllers").is_file():
        raise NotReady("no control groups are mounted at /sys/fs/cgroup, and containers need them: mount them there")


def _check_packages() -> None:
    if (missing := _missing_packages()) and not shutil.which("apt-get"):
        raise NotReady(f"these are missing and there is no apt-get to install them: {', '.join(missing)}")


def _check_image_building() -> None:
    image_registry()
    # Whoever is not root builds with subordinate ids and mounts of his own: another setup, and nobody has tried it.
    _check_root(f"JITNEY_CLUSTER={kind()} builds the images with buildah as root")
    if not shutil.which("buildah"):
        raise NotReady(f"JITNEY_CLUSTER={kind()} builds the images with the program buildah: install it (Debian: apt-get install buildah)")


def _check_kind() -> None:
    if not shutil.which("kind"):
        raise NotReady("JITNEY_CLUSTER=kind needs the program kind: install it from kind.sigs.k8s.io")
    done = subprocess.run(["kind", "get", "clusters"], capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split())[:300]
        raise NotReady(f"JITNEY_CLUSTER=kind needs a Docker (or Podman) that runs, and kind cannot use it: {said}")


def _check_kubeconfig() -> None:
    """Whether the cluster answers is asked when there is a kubectl to ask with."""
    wanted = [Path(name) for name in os.environ.get("KUBECONFIG", "").split(":") if name] or [Path.home() / ".kube" / "config"]
    if not any(path.is_file() for path in wanted) and not os.environ.get("KUBERNETES_SERVICE_HOST"):
        names = " or ".join(map(str, wanted))
        raise NotReady(f"JITNEY_CLUSTER=current uses the cluster of your kubeconfig and there is none at {names}: set KUBECONFIG to yours")


def _check_go() -> None:
    try:
        text = subprocess.run([go_command(), "version"], capture_output=True, text=True, check=False).stdout
    except RuntimeError as error:
        raise NotReady(str(error)) from error
    found = re.search(r"go(\d+)\.(\d+)", text)
    if not found or tuple(map(int, found.groups())) < GO_VERSION:
        raise NotReady(f"Go 1.26 or newer is needed to build Kubernetes and this is {text.strip()!r}: install it from go.dev/dl")


def _check_disk() -> None:
    cache = cache_folder()
    # With the images there, most of what is needed is in use already.
    built = (cache / "containerd").is_dir() or (cache / "images" / "storage").is_dir()
    _check_free(cache, 5 if built else DISK_GIGABYTES, "free some, or set JITNEY_CACHE")
    if not (CHECKOUT / ".venv" / "ready").is_file():
        _check_free(CHECKOUT, ENVIRONMENT_GIGABYTES, "free some, or move the checkout")


def _check_free(folder: Path, gigabytes: int, way_out: str) -> None:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(there).free / 1e9
    if free < gigabytes:
        raise NotReady(f"{gigabytes} GB of free disk are needed at {folder} and {free:.0f} GB are there: {way_out}")


# Packages


def _missing_packages() -> list[str]:
    missing = [package for name, package in PROGRAMS.items() if not shutil.which(name)]
    return missing if CNI.is_file() else [*missing, "containernetworking-plugins"]


def _install_packages() -> None:
    missing = _missing_packages()
    if not missing:
        return
    with Step(f"installing {', '.join(missing)}"):
        _apt("update")
        _apt("install", "--yes", "--no-install-recommends", *missing)
    _keep_system_containerd_quiet()


def _apt(*arguments: str) -> None:
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(["apt-get", "-qq", *arguments], env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotReady(f"apt-get {arguments[0]} failed: {done.stderr.strip()[-500:]}")


def _keep_system_containerd_quiet() -> None:
    """Debian starts its containerd when it is installed; ours is another one, and nobody asked for that."""
    if shutil.which("systemctl"):
        subprocess.run(["systemctl", "disable", "--now", "containerd"], capture_output=True, check=False)


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["go"]:
            _check_go()
        else:
            check_what_only_a_person_can_give()
    except NotReady as error:
        sys.exit(f"error: {error}")
