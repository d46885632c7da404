"""The local cluster: a whole Kubernetes with one node on this machine, started and stopped by code."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from cluster import binaries, leftovers, machine, network, places, state
from cluster.binaries import program
from cluster.containerd import RUN, unmount_below
from cluster.control_plane import ControlPlane
from cluster.images import LIBRARY, OURS, PAUSE_IMAGE, REPOSITORY, Builder, Image
from cluster.node import Node
from cluster.progress import Step, say

PLANE = state.FOLDER / "cluster"


class LocalCluster:
    """The one cluster of this machine, whoever started it."""

    kind = "local"
    kubeconfig: Path | None

    def __init__(self) -> None:
        self._attach()

    def _attach(self) -> None:
        """Read the record that is there; an empty one when there is none."""
        self.plane = ControlPlane(PLANE, controllers=True, address=network.ADDRESS, lasting=True)
        self.node = Node(self.plane)
        self.kubeconfig = self.plane.kubeconfig
        self.audit_log = self.plane.audit_log

    def running(self) -> bool:
        """True when every process of the record lives and the API answers."""
        processes = self.plane.processes.running
        if len(processes) < 8 or not all(process.alive() for process in processes):
            return False
        command = [program("kubectl"), f"--kubeconfig={self.kubeconfig}", "get", "--raw=/readyz", "--request-timeout=5s"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def process(self, name: str) -> int:
        """The id of one of its processes."""
        return next(process.pid for process in self.plane.processes.running if process.name == name)

    def up(self) -> None:
        """A running cluster with our images in it."""
        self.start()
        for image in OURS:
            self.provide(image)

    def start(self) -> None:
        """A running cluster: the one that is there when this checkout started it, else a new one."""
        machine.check()
        binaries.build(binaries.CLUSTER)
        with state.lock():
            owner = state.recorded()
            if owner and owner.checkout == str(REPOSITORY) and self.running():
                say(f"using the cluster that is up since {owner.started}")
            else:
                self._start_anew()

    def _start_anew(self) -> None:
        self._stop_recorded()
        with Step("starting Kubernetes"):
            state.record(state.Owner.us(REPOSITORY))
            self._attach()
            places.remember(state.FOLDER)
            network.create(state.FOLDER)
            try:
                self._start_parts()
            except BaseException:
                self.node.stop()
                self.plane.stop()
                network.remove(state.FOLDER)
                raise

    def _start_parts(self) -> None:
        self.node.start_containerd()
        self._provide_pause()
        self.plane.start()
        self.plane.start_scheduler()
        self.node.start()

    def down(self) -> bool:
        """Stop whatever throwaway cluster is recorded on this machine; False when there was none. Left, when something of it stays."""
        with state.lock():
            stopped = self._stop_recorded()
            leftovers.require_none()
        return stopped

    def _stop_recorded(self) -> bool:
        owner = state.recorded()
        if owner:
            with Step(f"stopping the cluster that {owner.checkout} started at {owner.started}"):
                self.node.stop()
                self.plane.stop()
                network.remove(state.FOLDER)
                places.remove(state.FOLDER)
                Builder().release()
        # Without a record too: whoever looks for one makes folders.
        unmount_below(state.FOLDER, RUN, self.node.containerd.root)
        shutil.rmtree(RUN, ignore_errors=True)
        shutil.rmtree(state.FOLDER, ignore_errors=owner is None)
        return owner is not None

    # Images

    def _provide_pause(self) -> None:
        if PAUSE_IMAGE not in self.node.containerd.images():
            builder = Builder()
            builder.pause()
            builder.hand_over(PAUSE_IMAGE, self.node.containerd)

    def reference(self, image: Image) -> str:
        return image.reference

    def provide(self, image: Image) -> None:
        """Build and hand over what containerd lacks."""
        if image.full_name not in self.node.containerd.images():
            builder = Builder()
            builder.base()
            builder.build(image)
            builder.hand_over(image.full_name, self.node.containerd)
            self._forget_older(builder, image)

    def _forget_older(self, builder: Builder, image: Image) -> None:
        containerd = self.node.containerd
        # A resource keeps the image it was resolved with, and its next pod needs it.
        used = self.plane.kubectl("get", "deployments", "--all-namespaces", "-o", "jsonpath={..image}").split()
        for name in containerd.images() - {LIBRARY + reference for reference in used}:
            if image.supersedes(name):
                containerd.remove_image(name)
        containerd.remove_nameless_images()
        builder.prune(image)
