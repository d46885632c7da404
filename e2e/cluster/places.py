"""Files that Kubernetes' programs put where nobody can tell them not to: outside the cluster's own folders."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

from cluster import state

KUBELET = Path("/var/lib/kubelet/device-plugins")
LOGS = Path("/var/log/containers")
ADDRESSES = Path("/var/lib/cni/results")
# What is in these is nobody else's when they were not there before.
MADE = (KUBELET, LOGS, ADDRESSES)
# These may have become somebody else's since: only what is empty goes.
EMPTIED = (
    KUBELET.parent,
    ADDRESSES.parent,
    *map(Path, ("/usr/libexec/kubernetes", "/opt/containerd", "/run/containerd", "/run/netns")),
)


def remember(folder: Path) -> None:
    """Before a cluster starts: `folder` keeps which of the places are not there."""
    (folder / "absent.json").write_text(json.dumps([str(place) for place in (*MADE, *EMPTIED) if not place.exists()]))


def remove(folder: Path) -> None:
    """The places that were not there before, and of the others what is ours."""
    for file in ours():
        file.unlink(missing_ok=True)
    for place in _absent(folder):
        if place in MADE:
            shutil.rmtree(place, ignore_errors=True)
        for below, _, _ in os.walk(place, topdown=False):
            with contextlib.suppress(OSError):
                Path(below).rmdir()


def _absent(folder: Path) -> list[Path]:
    """What remember() noted; nothing of a cluster that an older checkout started."""
    file = folder / "absent.json"
    return [Path(place) for place in json.loads(file.read_text())] if file.is_file() else []


def ours() -> list[Path]:
    """The notes on the addresses of pods in the network `jitney`, and links to logs in the cluster's folder."""
    notes = list(ADDRESSES.glob("jitney-*"))
    pods = {note.name.removeprefix("jitney-").removesuffix("-eth0") for note in notes}
    notes += [note for note in ADDRESSES.glob("cni-loopback-*") if note.name.removeprefix("cni-loopback-").removesuffix("-lo") in pods]
    links = [link for link in LOGS.glob("*") if link.is_symlink() and os.readlink(link).startswith(f"{state.FOLDER}/")]
    return sorted([*notes, *links])
