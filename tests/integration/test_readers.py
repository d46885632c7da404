"""What tools that wait for resources make of ours at each moment: kstatus by its own library, Argo CD by the script in docs/gitops.md."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from cluster import binaries
from cluster.control_plane import ControlPlane
from support import children
from support.answering import answering
from support.namespaces import Namespace
from support.operator import Operator

Said = Callable[[], tuple[str, str]]
SMALL = {"model": "smollm2-instruct", "size": "0.135"}


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    binaries.build(binaries.READERS)


@pytest.fixture
def operator(plane: ControlPlane, namespace: Namespace, tmp_path: Path) -> Iterator[Operator]:
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "operator.log") as operator:
        yield operator


DOCUMENT = Path(__file__).parents[2] / "docs" / "gitops.md"


@pytest.fixture
def said(namespace: Namespace, tmp_path: Path) -> Callable[[], tuple[str, str]]:
    """The words of kstatus and of Argo CD for what the resource is now."""
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)]
    (settings,) = (block["data"] for block in blocks if block.get("kind") == "ConfigMap")
    script = tmp_path / "health.lua"
    script.write_text(settings["resource.customizations.health.serving.jitney.dev_ModelDeployment"])

    def ask() -> tuple[str, str]:
        found = json.dumps(namespace.get())
        commands = ([binaries.program("kstatus")], [binaries.program("argohealth"), script])
        answers = [subprocess.run(command, input=found, capture_output=True, text=True, check=True).stdout for command in commands]
        assert all(answer.partition(": ")[2].strip() for answer in answers), answers
        return answers[0].partition(":")[0], answers[1].partition(":")[0]

    return ask


def reason(namespace: Namespace) -> str | None:
    return namespace.get()["status"].get("reason")


def test_a_resource_that_no_operator_has_seen(namespace: Namespace, said: Said):
    namespace.create(**SMALL)
    assert said() == ("InProgress", "Progressing")


def test_on_the_way_and_there(namespace: Namespace, operator: Operator, said: Said):
    namespace.create(**SMALL)
    operator.until(lambda: children.deployment(namespace))
    operator.until(lambda: reason(namespace) == "Pending")
    assert said() == ("InProgress", "Progressing")
    children.finish_rollout(namespace)
    operator.until(lambda: reason(namespace) == "Ready")
    assert said() == ("Current", "Healthy")
    namespace.kubectl("scale", "mdep", "chat", "--replicas=2")
    assert said() == ("InProgress", "Progressing")
    children.finish_rollout(namespace)
    operator.until(lambda: reason(namespace) == "Ready" and namespace.get()["status"]["replicas"] == 2)
    assert said() == ("Current", "Healthy")


def test_a_new_spec_before_anybody_looked_at_it(namespace: Namespace, plane: ControlPlane, tmp_path: Path, said: Said):
    namespace.create(**SMALL)
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "operator.log") as operator:
        operator.until(lambda: children.deployment(namespace))
        children.finish_rollout(namespace)
        operator.until(lambda: reason(namespace) == "Ready")
    assert said() == ("Current", "Healthy")
    namespace.kubectl("patch", "mdep", "chat", "--type=merge", "-p", '{"spec": {"maxNumSeqs": 4}}')
    assert said() == ("InProgress", "Progressing")


def test_suspended_is_what_was_wanted(namespace: Namespace, operator: Operator, said: Said):
    namespace.create(**SMALL, suspend=True)
    operator.until(lambda: children.deployment(namespace))
    children.finish_rollout(namespace)
    operator.until(lambda: reason(namespace) == "Suspended")
    assert said() == ("Current", "Suspended")


def test_scaled_to_zero_is_what_was_wanted(namespace: Namespace, operator: Operator, said: Said):
    namespace.create(**SMALL, replicas=0)
    operator.until(lambda: children.deployment(namespace))
    children.finish_rollout(namespace)
    operator.until(lambda: reason(namespace) == "ScaledToZero")
    assert said() == ("Current", "Healthy")


def test_a_model_that_its_load_sent_to_sleep_is_well(namespace: Namespace, plane: ControlPlane, tmp_path: Path, said: Said):
    configuration = tmp_path / "config.yaml"
    configuration.write_text(json.dumps({"profiles": {"cpu": {"memory": "4Gi"}}, "wakeNamespaces": ["*"]}))
    address = "127.0.53.29"
    idle = b'jitney_requests_running{model_name="m"} 0\njitney_requests_waiting{model_name="m"} 0\n'
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log", quiet=1, JITNEY_CONFIG=str(configuration)) as operator:
        namespace.create(**SMALL, autoscaling={"minReplicas": 0, "maxReplicas": 2, "scaleDownDelaySeconds": 1})
        operator.until(lambda: children.settled(namespace))
        with answering(address, body=idle):
            children.ready_pod(namespace, address)
            operator.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 0)
        children.finish_rollout(namespace)
        operator.until(lambda: reason(namespace) == "ScaledToZero")
    assert said() == ("Current", "Healthy")


def test_what_leaves_is_leaving(namespace: Namespace, said: Said):
    namespace.create(**SMALL)
    namespace.kubectl("patch", "mdep", "chat", "--type=merge", "-p", '{"metadata": {"finalizers": ["test.jitney.dev/held"]}}')
    namespace.kubectl("delete", "mdep", "chat", "--wait=false")
    # Argo CD itself tells what is being deleted; its script is asked about health only.
    assert said()[0] == "Terminating"
    namespace.kubectl("patch", "mdep", "chat", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')


def test_a_name_that_is_taken_has_failed(namespace: Namespace, operator: Operator, said: Said):
    namespace.kubectl("create", "service", "clusterip", "chat", "--tcp=80")
    namespace.create(**SMALL)
    operator.until(lambda: reason(namespace) == "NameConflict")
    assert said() == ("Failed", "Degraded")


def test_what_cannot_become_ready_has_failed(namespace: Namespace, operator: Operator, said: Said):
    namespace.create(**SMALL, maxModelLen=8192, maxNumSeqs=512)
    operator.until(lambda: reason(namespace) == "DoesNotFit")
    assert said() == ("Failed", "Degraded")


def test_a_failure_that_may_pass_is_on_its_way(namespace: Namespace, operator: Operator, said: Said):
    namespace.create(**SMALL)
    operator.until(lambda: children.deployment(namespace))
    children.make_pod(namespace)
    children.set_container(namespace, {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})
    operator.until(lambda: reason(namespace) == "ImagePullError")
    assert said() == ("InProgress", "Degraded")
