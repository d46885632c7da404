"""The end-to-end suite's own eye: what it has not seen, no test can ask for."""

from __future__ import annotations

import os
import signal
import time

from product.eye import Eye

from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl, wait_for
from support.namespaces import Namespace

# kubectl asks for so many at a time, and tells of each part in another way when there is more than one.
PART = 500


def test_a_watch_that_ends_is_opened_again_and_sees_everything_once(plane: ControlPlane, namespace: Namespace) -> None:
    names = [f"seen-{number:03}" for number in range(PART + 2)]
    kubectl = Kubectl(plane.kubeconfig)

    def make(names: list[str]) -> None:
        regards = {"kind": "Pod", "name": "pod", "namespace": namespace.name}
        of = {"apiVersion": "v1", "kind": "Event", "involvedObject": regards, "reason": "Seen", "type": "Normal"}
        kubectl.apply(*({**of, "metadata": {"name": name, "namespace": namespace.name}} for name in names))

    with Eye(kubectl) as eye:

        def seen() -> list[str]:
            return [found["metadata"]["name"] for found in eye.seen("events") if found["metadata"]["namespace"] == namespace.name]

        make(names[:-1])
        wait_for(lambda: len(seen()) == len(names) - 1, 60, "the first Events")
        ended = eye._watches["events"].pid
        os.kill(ended, signal.SIGKILL)
        make(names[-1:])
        wait_for(lambda: len(seen()) >= len(names), 30, "the last Event")
        time.sleep(1)
        assert seen() == names
        assert eye._watches["events"].pid != ended
