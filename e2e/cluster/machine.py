"""What this machine must have before anything is built; what apt can bring is brought.

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

DISK_GIGABYTES = 30
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


def check() -> None:
    """NotReady for the first thing that is missing; installs packages when they are all that is."""
    check_what_only_a_person_can_give()
    _install_packages()


def check_what_only_a_person_can_give() -> None:
    """NotReady for the first thing that is missing; changes nothing."""
    _check_root()
    _check_cgroups()
    _check_go()
    _check_disk()


def _check_root() -> None:
    if os.geteuid() != 0:
        raise NotReady("a Kubernetes on this machine needs root: run it as root (or with sudo), or use JITNEY_CLUSTER=kind or current")


def _check_cgroups() -> None:
    if not Path("/sys/fs/cgroup/memory").is_dir() and not Path("/sys/fs/cgroup/cgroup.controllers").is_file():
        raise NotReady("no control groups are mounted at /sys/fs/cgroup, and containers need them")


def _check_go() -> None:
    try:
        text = subprocess.run([go_command(), "version"], capture_output=True, text=True, check=True).stdout
    except RuntimeError as error:
        raise NotReady(str(error)) from error
    found = re.search(r"go(\d+)\.(\d+)", text)
    if not found or tuple(map(int, found.groups())) < GO_VERSION:
        raise NotReady(f"Go 1.26 or newer is needed to build Kubernetes and this is {text.strip()!r}: install it from go.dev/dl")


def _check_disk() -> None:
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    # With the images there, most of what is needed is in use already.
    wanted = 5 if (folder / "containerd").is_dir() else DISK_GIGABYTES
    free = shutil.disk_usage(folder).free / 1e9
    if free < wanted:
        raise NotReady(f"{wanted} GB of free disk are needed at {folder} and {free:.0f} GB are there: free some, or set JITNEY_CACHE")


def _install_packages() -> None:
    missing = [package for name, package in PROGRAMS.items() if not shutil.which(name)]
    missing += [] if CNI.is_file() else ["containernetworking-plugins"]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise NotReady(f"these are missing and there is no apt-get to install them: {', '.join(missing)}")
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
        elif (os.environ.get("JITNEY_CLUSTER") or "local") == "local":
            check_what_only_a_person_can_give()
    except NotReady as error:
        sys.exit(f"error: {error}")
