"""Which cluster the demo and the tests use: JITNEY_CLUSTER is local (default), kind, or current."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Protocol

from cluster import binaries, machine
from cluster.binaries import cache_folder
from cluster.images import OURS, Builder, Image
from cluster.kubectl import Kubectl
from cluster.local import LocalCluster
from cluster.progress import Step

KIND_NAME = "jitney"
KIND_CONFIG = Path(__file__).parents[1] / "kind.yaml"


class Cluster(Protocol):
    """A Kubernetes to install into."""

    kind: str
    kubeconfig: Path | None

    def up(self) -> None:
        """Running, and able to pull our images."""
        ...

    def down(self) -> bool:
        """Remove what up() made; False when there was nothing."""
        ...

    def provide(self, image: Image) -> None:
        """Built where that is lacking, and where its pods get it from."""
        ...

    def reference(self, image: Image) -> str:
        """The name by which its pods get `image`."""
        ...


class CurrentCluster:
    """Whatever the user's kubeconfig points to; images go through a registry that it reads."""

    kind = "current"

    def __init__(self) -> None:
        self.kubeconfig: Path | None = None

    def up(self) -> None:
        machine.check()
        machine.image_registry()
        binaries.build((binaries.KUBERNETES, binaries.HELM))
        self._reach()
        for image in OURS:
            self.provide(image)

    def provide(self, image: Image) -> None:
        builder = Builder(base_image=os.environ.get("BASE_IMAGE") or "docker.io/library/python:3.12-slim-bookworm")
        builder.build(image)
        builder.push(image, machine.image_registry())

    def _reach(self) -> None:
        Kubectl(self.kubeconfig)("version", "--request-timeout=10s")

    def down(self) -> bool:
        """Nothing of it is ours to stop; the demo says how to remove what it made."""
        return False

    def reference(self, image: Image) -> str:
        return f"{machine.image_registry()}/{image.reference}"


class KindCluster(CurrentCluster):
    """A cluster of kind's, made with e2e/kind.yaml."""

    kind = "kind"

    def __init__(self) -> None:
        self.kubeconfig = cache_folder() / "kind.kubeconfig"

    def _reach(self) -> None:
        with Step("making a kind cluster"):
            if KIND_NAME not in _kind("get", "clusters").split():
                _kind("create", "cluster", "--name", KIND_NAME, "--config", str(KIND_CONFIG), "--wait", "120s")
            _kind("export", "kubeconfig", "--name", KIND_NAME, "--kubeconfig", str(self.kubeconfig))

    def down(self) -> bool:
        if not shutil.which("kind") or KIND_NAME not in _kind("get", "clusters").split():
            return False
        _kind("delete", "cluster", "--name", KIND_NAME)
        return True


def chosen() -> Cluster:
    """The cluster that JITNEY_CLUSTER names; NotReady for another word."""
    kinds: dict[str, type[LocalCluster | KindCluster | CurrentCluster]] = {
        "local": LocalCluster,
        "kind": KindCluster,
        "current": CurrentCluster,
    }
    return kinds[machine.kind()]()


def _kind(*arguments: str) -> str:
    done = subprocess.run(["kind", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"kind {arguments[0]}: {done.stderr.strip()}")
    return done.stdout
