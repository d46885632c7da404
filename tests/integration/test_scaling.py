"""Autoscaling against a real API server: the load is said by HTTP servers that answer as runtimes do."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cluster.control_plane import ControlPlane
from support import children
from support.answering import answering
from support.namespaces import Namespace
from support.operator import Operator

SMALL = {"model": "smollm2-instruct", "size": "0.135"}
BOUNDS = {"minReplicas": 1, "maxReplicas": 3, "targetRequestsPerReplica": 4, "scaleDownDelaySeconds": 5}
SLEEPY = BOUNDS | {"minReplicas": 0, "scaleDownDelaySeconds": 1}
CONFIGURATION = {"profiles": {"cpu": {"memory": "4Gi"}}, "wakeNamespaces": ["*"]}


@pytest.fixture
def operator(plane: ControlPlane, namespace: Namespace, tmp_path: Path) -> Iterator[Operator]:
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log") as operator:
        yield operator


def load(requests: int) -> bytes:
    """As a runtime tells it."""
    return f'jitney_requests_running{{model_name="m"}} {requests}\njitney_requests_waiting{{model_name="m"}} 0\n'.encode()


def replicas(namespace: Namespace) -> int:
    return int(children.deployment(namespace)["spec"]["replicas"])


def test_the_replicas_follow_the_load_and_wait_before_they_fall(namespace: Namespace, operator: Operator):
    namespace.create(**SMALL, autoscaling=BOUNDS)
    operator.until(lambda: children.settled(namespace))
    assert replicas(namespace) == 1
    with answering("127.0.53.21", body=load(0)) as runtime:
        children.ready_pod(namespace, "127.0.53.21")
        runtime.body = load(9)
        operator.until(lambda: replicas(namespace) == 3)
        said = operator.until(lambda: namespace.get()["status"].get("autoscaling"))
        assert said == {"replicas": 3, "decidedBy": "Load"}
        assert namespace.get()["status"]["ready"] == "1/3"
        assert namespace.get()["spec"].get("replicas", 1) == 1, "the spec is the person's"
        runtime.body = load(0)
        fell = time.monotonic()
        operator.until(lambda: replicas(namespace) == 1)
        assert time.monotonic() - fell >= 3, "less load must last"


def test_a_new_operator_goes_on_from_what_there_is(namespace: Namespace, operator: Operator, plane: ControlPlane, tmp_path: Path):
    namespace.create(**SMALL, autoscaling=BOUNDS | {"scaleDownDelaySeconds": 3600})
    operator.until(lambda: children.settled(namespace))
    with answering("127.0.53.22", body=load(0)) as runtime:
        children.ready_pod(namespace, "127.0.53.22")
        runtime.body = load(100)
        operator.until(lambda: replicas(namespace) == 3)
        runtime.body = load(0)
        operator.process.terminate()
        operator.process.wait(20)
        version = children.deployment(namespace)["metadata"]["resourceVersion"]
        with Operator(plane.kubeconfig, namespace.name, tmp_path / "second.log", identity="second") as second:
            second.until(lambda: runtime.asked)
            runtime.asked = 0
            second.until(lambda: runtime.asked >= 3)
        assert children.deployment(namespace)["metadata"]["resourceVersion"] == version


def test_it_never_fights_a_horizontal_pod_autoscaler(namespace: Namespace, operator: Operator):
    namespace.create(**SMALL, autoscaling=BOUNDS)
    operator.until(lambda: children.settled(namespace))
    with answering("127.0.53.23", body=load(0)) as runtime:
        children.ready_pod(namespace, "127.0.53.23")
        runtime.body = load(9)
        operator.until(lambda: replicas(namespace) == 3)
        reference = {"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "name": "chat"}
        hpa = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "any"}}
        namespace.kubectl("create", "-f", "-", input=json.dumps({**hpa, "spec": {"scaleTargetRef": reference, "maxReplicas": 5}}))
        # As the controller manager writes for it, and no controllers run here.
        namespace.kubectl("patch", "mdep", "chat", "--subresource=scale", "--type=merge", "-p", '{"spec": {"replicas": 2}}')
        operator.until(lambda: replicas(namespace) == 2)
        time.sleep(5)
        assert replicas(namespace) == 2
        assert namespace.get()["status"]["autoscaling"] == {"replicas": 2, "decidedBy": "HorizontalPodAutoscaler"}
        namespace.kubectl("delete", "hpa", "any")
        operator.until(lambda: replicas(namespace) == 3)
        operator.until(lambda: namespace.get()["status"]["autoscaling"]["decidedBy"] == "Load")


def test_a_pod_that_says_nothing_keeps_the_others_and_stops_no_growth(namespace: Namespace, operator: Operator):
    namespace.create(**SMALL, autoscaling=BOUNDS)
    operator.until(lambda: children.settled(namespace))
    with answering("127.0.53.24", body=load(0)) as runtime:
        children.ready_pod(namespace, "127.0.53.24")
        children.ready_pod(namespace, "127.0.53.25", "chat-2")
        runtime.body = load(9)
        operator.until(lambda: replicas(namespace) == 3)
        runtime.body = load(0)
        time.sleep(BOUNDS["scaleDownDelaySeconds"] + 4)
        assert replicas(namespace) == 3, "who does not answer may be the busiest"
        namespace.kubectl("delete", "pod", "chat-2", "--grace-period=0", "--force")
        operator.until(lambda: replicas(namespace) == 1)


def test_a_pod_leads_the_question_nowhere_else(namespace: Namespace, operator: Operator):
    """An image of somebody's own could send the operator to any address in its reach."""
    namespace.create(**SMALL, autoscaling=BOUNDS)
    operator.until(lambda: children.settled(namespace))
    with answering("127.0.53.26", body=load(0)) as elsewhere, answering("127.0.53.27", body=load(0)) as pod:
        elsewhere.body = load(100)
        pod.status, pod.headers = 302, {"Location": "http://127.0.53.26:8000/metrics"}
        children.ready_pod(namespace, "127.0.53.27")
        operator.until(lambda: pod.asked >= 2)
        assert not elsewhere.asked
        assert replicas(namespace) == 1


def test_a_suspended_model_has_no_load(namespace: Namespace, operator: Operator):
    namespace.create(**SMALL, autoscaling=BOUNDS, suspend=True)
    operator.until(lambda: children.settled(namespace))
    assert replicas(namespace) == 0
    assert "autoscaling" not in namespace.get()["status"]
    namespace.kubectl("patch", "mdep", "chat", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    operator.until(lambda: replicas(namespace) == 1)


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """Of an installation with a front door."""
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(CONFIGURATION))
    return file


def test_a_model_that_nobody_asks_sleeps_until_it_is_called_for(
    namespace: Namespace, plane: ControlPlane, configuration: Path, tmp_path: Path
):
    """What time the call names says nothing: clocks differ."""
    first, second = (tmp_path / name for name in ("first.log", "second.log"))
    with Operator(plane.kubeconfig, namespace.name, first, quiet=1, JITNEY_CONFIG=str(configuration)) as operator:
        namespace.create(**SMALL, autoscaling=SLEEPY)
        operator.until(lambda: children.settled(namespace))
        _call(namespace, "2050-01-01T00:00:00Z")
        with answering("127.0.53.28", body=load(0)):
            children.ready_pod(namespace, "127.0.53.28")
            operator.until(lambda: replicas(namespace) == 0)
        children.finish_rollout(namespace)
        operator.until(lambda: namespace.reason() == "ScaledToZero")
        said = namespace.get()["status"]
        assert (said["reason"], said["ready"], said["autoscaling"]) == ("ScaledToZero", "0/0", {"replicas": 0, "decidedBy": "Load"})
        assert "request to the front door wakes it" in namespace.condition("Ready")["message"]
        asleep = namespace.versions()
    with Operator(plane.kubeconfig, namespace.name, second, quiet=1, JITNEY_CONFIG=str(configuration)) as operator:
        # Once before it knows who scales, and once with what it knows.
        operator.until(lambda: _looks(operator) >= 2)
        time.sleep(3)
        assert namespace.versions() == asleep, "an operator that starts neither wakes it nor writes"
        _call(namespace, "1970-01-01T00:00:00Z")
        operator.until(lambda: replicas(namespace) == 1)
        operator.until(lambda: namespace.get()["status"]["autoscaling"]["replicas"] == 1)


def _call(namespace: Namespace, moment: str) -> None:
    """As a front door does it."""
    namespace.kubectl("annotate", "mdep", "chat", f"serving.jitney.dev/wanted-at={moment}", "--overwrite")


def _looks(operator: Operator) -> float:
    try:
        text = httpx.get(f"http://127.0.0.1:{operator.port}/metrics").text
    except httpx.TransportError:
        return 0
    (found,) = re.findall(r"^jitney_operator_reconciles_total ([0-9.e+]+)$", text, re.MULTILINE)
    return float(found)
