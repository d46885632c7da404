"""What tools that wait for resources make of ours at each moment, by their own library: InProgress, Current, Failed, Terminating."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import binaries
from cluster.control_plane import ControlPlane
from support import children
from support.namespaces import Namespace
from support.operator import Operator

SMALL = {"model": "smollm2-instruct", "size": "0.135"}


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    binaries.build((binaries.KSTATUS,))


@pytest.fixture
def operator(plane: ControlPlane, namespace: Namespace, tmp_path: Path) -> Iterator[Operator]:
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "operator.log") as operator:
        yield operator


def kstatus(namespace: Namespace) -> str:
    program = str(binaries.program("kstatus"))
    return subprocess.run([program], input=json.dumps(namespace.get()), capture_output=True, text=True, check=True).stdout


def reason(namespace: Namespace) -> str | None:
    return namespace.get()["status"].get("reason")


def test_a_resource_that_no_operator_has_seen(namespace: Namespace):
    namespace.create(**SMALL)
    assert kstatus(namespace).startswith("InProgress: ModelDeployment generation is 1, but latest observed generation is 0")


def test_on_the_way_and_there(namespace: Namespace, operator: Operator):
    namespace.create(**SMALL)
    operator.until(lambda: children.deployment(namespace))
    operator.until(lambda: reason(namespace) == "Pending")
    assert kstatus(namespace).startswith("InProgress")
    children.finish_rollout(namespace)
    operator.until(lambda: reason(namespace) == "Ready")
    assert kstatus(namespace).startswith("Current")
    namespace.kubectl("scale", "mdep", "chat", "--replicas=2")
    assert kstatus(namespace).startswith("InProgress")
    children.finish_rollout(namespace)
    operator.until(lambda: reason(namespace) == "Ready" and namespace.get()["status"]["replicas"] == 2)
    assert kstatus(namespace).startswith("Current")


def test_a_new_spec_before_anybody_looked_at_it(namespace: Namespace, plane: ControlPlane, tmp_path: Path):
    namespace.create(**SMALL)
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "operator.log") as operator:
        operator.until(lambda: children.deployment(namespace))
        children.finish_rollout(namespace)
        operator.until(lambda: reason(namespace) == "Ready")
    assert kstatus(namespace).startswith("Current")
    namespace.kubectl("patch", "mdep", "chat", "--type=merge", "-p", '{"spec": {"maxNumSeqs": 4}}')
    assert kstatus(namespace).startswith("InProgress")


def test_suspended_is_what_was_wanted(namespace: Namespace, operator: Operator):
    namespace.create(**SMALL, suspend=True)
    operator.until(lambda: children.deployment(namespace))
    children.finish_rollout(namespace)
    operator.until(lambda: reason(namespace) == "Suspended")
    assert kstatus(namespace).startswith("Current")


def test_what_cannot_become_ready_has_failed(namespace: Namespace, operator: Operator):
    namespace.create(**SMALL, maxModelLen=8192, maxNumSeqs=512)
    operator.until(lambda: reason(namespace) == "DoesNotFit")
    assert kstatus(namespace).startswith("Failed: Needs ")


def test_a_failure_that_may_pass_is_on_its_way(namespace: Namespace, operator: Operator):
    namespace.create(**SMALL)
    operator.until(lambda: children.deployment(namespace))
    children.make_pod(namespace)
    children.set_container(namespace, {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})
    operator.until(lambda: reason(namespace) == "ImagePullError")
    assert kstatus(namespace).startswith("InProgress")
