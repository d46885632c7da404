"""What a stopped cluster has left on this machine. Should it be anything, then it has not been stopped.

`look` reads the machine, `ours` decides. Both know what the harness makes by its names, not by its record, which ends with the cluster.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from cluster import network, places, state
from cluster.binaries import cache_folder
from cluster.containerd import RUN, cgroups

PROGRAMS = {
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "coredns"),
    *("containerd", "containerd-shim-runc-v2", "metrics-server", "registry"),
}
IMAGE_BUILDERS = {"buildah", "skopeo", "debootstrap"}
NETWORK_NAMESPACES = Path("/run/netns")
# Of the kernel, which takes away what a process held a moment after its end.
PATIENCE_SECONDS = 10
KINDS = ("process", "mount", "network interface", "network namespace", "firewall rule", "control group", "folder", "file")
# Of each kind, for a person; kube-proxy alone makes a hundred rules.
NAMED = 3


class Left(RuntimeError):
    """A stopped cluster left something; the message is one sentence."""


@dataclass(frozen=True)
class Process:
    """`groups`: its control groups, told from where this program is."""

    pid: int
    command: tuple[str, ...]
    groups: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return Path(self.command[0]).name


@dataclass(frozen=True)
class Link:
    """A network interface; `master` is the bridge that it hangs on."""

    name: str
    master: str | None = None


@dataclass(frozen=True)
class Seen:
    """Of a machine, what a cluster could have left something among."""

    processes: tuple[Process, ...] = ()
    mounts: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    rules: tuple[str, ...] = ()
    # Only ours are looked for.
    paths: tuple[str, ...] = ()


def require_none(seconds: float = PATIENCE_SECONDS) -> None:
    """Left, when after `seconds` something is still there."""
    deadline = time.monotonic() + seconds
    while left := ours(look()):
        if time.monotonic() > deadline:
            raise Left(f"the cluster is stopped and has left on this machine: {'; '.join(_in_short(left))}")
        time.sleep(0.5)


# Decide


def ours(seen: Seen) -> list[str]:
    """Each thing that only our cluster can have left, in words that begin with its kind."""
    return [
        *(f"process {process.pid} ({process.name})" for process in seen.processes if _is_our_process(process)),
        *(f"mount {point}" for point in seen.mounts if _is_our_mount(point, seen)),
        *(f"network interface {link.name}" for link in seen.links if _is_our_link(link)),
        *(f"firewall rule {rule}" for rule in seen.rules if any(mark in rule for mark in network.MARKS)),
        *seen.paths,
    ]


def _in_short(left: list[str]) -> list[str]:
    """The first of each kind, and how many more there are."""
    short = []
    for kind in KINDS:
        found = [words for words in left if words.startswith(f"{kind} ")]
        more = len(found) - NAMED
        short += [*found[:NAMED], *([f"{more} more of this kind"] if more > 0 else [])]
    return short


def _is_our_process(process: Process) -> bool:
    """One of the cluster's programs that works in its folders, or whatever runs in a pod."""
    of_the_cluster = process.name in PROGRAMS and any(_has_folder(word) for word in process.command[1:])
    return of_the_cluster or any(group.startswith("/kubepods/") for group in process.groups)


def _has_folder(word: str) -> bool:
    return any(f"{folder}/" in word for folder in (state.FOLDER, RUN))


def _is_our_mount(point: str, seen: Seen) -> bool:
    # Who builds images at this moment has a mount there by right.
    building = any(Path(word).name in IMAGE_BUILDERS for process in seen.processes for word in process.command[:2])
    folders = (state.FOLDER, RUN, cache_folder() / "containerd", *([] if building else [cache_folder() / "images"]))
    return any(point.startswith(f"{folder}/") for folder in folders) or point.startswith(f"{NETWORK_NAMESPACES}/cni-")


def _is_our_link(link: Link) -> bool:
    """The bridge, and the hosts' ends of the pods' cables: with eight digits they are the bridge plugin's; on another bridge, another's."""
    digits = link.name.removeprefix("veth")
    cable = link.name.startswith("veth") and len(digits) == 8 and set(digits) <= set("0123456789abcdef")
    return link.name == network.BRIDGE or (cable and link.master in (None, network.BRIDGE))


# Look


def look() -> Seen:
    return Seen(tuple(_processes()), tuple(_mounts()), tuple(_links()), tuple(_rules()), tuple(_paths()))


def _processes() -> list[Process]:
    """Those that have a command line: neither the kernel's nor the dead."""
    found, own = [], Path("/proc/self/cgroup").read_text()
    for folder in Path("/proc").glob("[0-9]*"):
        # Processes end while we look.
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")
            if command != [""]:
                found.append(Process(int(folder.name), tuple(command), control_groups((folder / "cgroup").read_text(), own)))
    return found


def control_groups(text: str, own: str) -> tuple[str, ...]:
    """Of a process, both as /proc has them. Its own program may run in a pod, whose name comes before all names of its cluster's pods."""
    paths, ours = (dict(line.rsplit(":", 1) for line in lines.splitlines()) for lines in (text, own))
    return tuple(sorted({path.removeprefix(ours.get(hierarchy, "").rstrip("/")) or "/" for hierarchy, path in paths.items()}))


def _mounts() -> list[str]:
    return [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]


def _links() -> list[Link]:
    return [Link(entry["ifname"], entry.get("master")) for entry in json.loads(_output("ip", "-json", "link", "show") or "[]")]


def _rules() -> list[str]:
    return [line for tool in ("iptables-save", "ip6tables-save") for line in _output(tool).splitlines()]


def _output(*command: str) -> str:
    """Nothing, where the program is not installed: then no cluster has been here."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout if shutil.which(command[0]) else ""


def _paths() -> list[str]:
    folders = [folder for folder in (state.FOLDER, RUN) if folder.exists()]
    return [
        *(f"folder {folder}" for folder in folders),
        *(f"file {file}" for file in places.ours()),
        *(f"network namespace {file}" for file in sorted(NETWORK_NAMESPACES.glob("cni-*"))),
        *(f"control group {folder}" for folder in cgroups() if folder.is_dir()),
    ]
