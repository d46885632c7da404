"""Autoscaling against a real API server: the load is said by HTTP servers that answer as runtimes do."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.control_plane import ControlPlane
from support import children
from support.answering import answering
from support.keda import of_keda
from support.namespaces import Namespace, define
from support.operator import Operator
from support.proxy import GONE, Answer, Proxy, Seen, Torn, once

SMALL = {"model": "smollm2-instruct", "size": "0.135"}
BOUNDS = {"minReplicas": 1, "maxReplicas": 3, "targetRequestsPerReplica": 4, "scaleDownDelaySeconds": 5}
SLEEPY = BOUNDS | {"minReplicas": 0, "scaleDownDelaySeconds": 1}
REFERENCE = {"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "name": "chat"}
# Of KEDA's definition what is needed here.
SCALED_OBJECTS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "scaledobjects.keda.sh"},
    "spec": {
        "group": "keda.sh",
        "scope": "Namespaced",
        "names": {"kind": "ScaledObject", "plural": "scaledobjects", "singular": "scaledobject"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}
CONFIGURATION = {"profiles": {"cpu": {"memory": "4Gi"}}, "wakeNamespaces": ["*"]}


@pytest.fixture
def operator(plane: ControlPlane, namespace: Namespace, tmp_path: Path) -> Iterator[Operator]:
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log") as operator:
        yield operator


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    """Of an installation with a front door."""
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(CONFIGURATION))
    return file


@pytest.fixture
def keda(plane: ControlPlane) -> Iterator[None]:
    """Its kind, and nothing that acts on it."""
    define(plane, json.dumps(SCALED_OBJECTS))
    yield
    plane.kubectl("delete", "customresourcedefinition", "scaledobjects.keda.sh")


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
        hpa = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "any"}}
        _make(namespace, {**hpa, "spec": {"scaleTargetRef": REFERENCE, "maxReplicas": 5}})
        _scale(namespace, 2)
        operator.until(lambda: replicas(namespace) == 2)
        time.sleep(5)
        assert replicas(namespace) == 2
        assert _said(namespace) == {"replicas": 2, "decidedBy": "HorizontalPodAutoscaler"}
        namespace.kubectl("delete", "hpa", "any")
        operator.until(lambda: replicas(namespace) == 3)
        operator.until(lambda: _said(namespace)["decidedBy"] == "Load")


def test_an_autoscaler_that_is_new_has_the_say_at_once(proxy: Proxy, namespace: Namespace, tmp_path: Path):
    """No listing tells of it, and none comes before the load has risen."""
    with Operator(proxy.kubeconfig, namespace.name, tmp_path / "log") as operator:
        namespace.create(**SMALL, autoscaling=BOUNDS)
        operator.until(lambda: children.settled(namespace))
        with answering("127.0.53.29", body=load(0)) as runtime:
            children.ready_pod(namespace, "127.0.53.29")
            operator.until(lambda: proxy.count_watches("horizontalpodautoscalers"))
            begun = time.monotonic()
            _make(namespace, of_keda(namespace.name, "chat"))
            operator.until(lambda: _said(namespace)["decidedBy"] == "HorizontalPodAutoscaler")
            assert not [seen for seen in proxy.since(begun) if seen.lists and seen.plural == "horizontalpodautoscalers"]
            runtime.body, before = load(9), children.deployment(namespace)["metadata"]["resourceVersion"]
            time.sleep(5)
            assert children.deployment(namespace)["metadata"]["resourceVersion"] == before


def test_it_leaves_to_keda_what_keda_scales_to_zero_too(namespace: Namespace, plane: ControlPlane, configuration: Path, tmp_path: Path):
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log", JITNEY_CONFIG=str(configuration)) as operator:
        namespace.create(**SMALL, autoscaling=BOUNDS | {"minReplicas": 0})
        operator.until(lambda: children.settled(namespace))
        with answering("127.0.53.30", body=load(9)):
            children.ready_pod(namespace, "127.0.53.30")
            operator.until(lambda: replicas(namespace) == 3)
            _make(namespace, of_keda(namespace.name, "chat"))
            operator.until(lambda: _said(namespace)["decidedBy"] == "HorizontalPodAutoscaler")
            # Its triggers are idle; the HPA stays. The pod stays too, as one that finishes its answers, and has a load.
            _scale(namespace, 0)
            operator.until(lambda: replicas(namespace) == 0)
            operator.until(lambda: _said(namespace) == {"replicas": 0, "decidedBy": "HorizontalPodAutoscaler"})
            before = children.deployment(namespace)["metadata"]["resourceVersion"]
            _call(namespace, "2026-01-01T00:00:00Z")
            time.sleep(5)
            assert children.deployment(namespace)["metadata"]["resourceVersion"] == before
            assert namespace.get()["spec"]["replicas"] == 0
            namespace.kubectl("delete", "hpa", "keda-hpa-chat")
            operator.until(lambda: replicas(namespace) == 3)
            operator.until(lambda: _said(namespace) == {"replicas": 3, "decidedBy": "Load"})


def test_keda_has_the_say_while_it_pauses(keda: None, namespace: Namespace, plane: ControlPlane, tmp_path: Path):
    """It takes its HPA away then, and the replicas are still its own."""
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log") as operator:
        namespace.create(**SMALL, autoscaling=BOUNDS)
        operator.until(lambda: children.settled(namespace))
        with answering("127.0.53.31", body=load(9)):
            children.ready_pod(namespace, "127.0.53.31")
            operator.until(lambda: replicas(namespace) == 3)
            triggers = [{"type": "prometheus", "metadata": {"query": "x", "threshold": "8", "serverAddress": "http://x"}}]
            body = {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "chat"}}
            _make(namespace, {**body, "spec": {"scaleTargetRef": REFERENCE, "triggers": triggers}})
            _make(namespace, of_keda(namespace.name, "chat"))
            operator.until(lambda: _said(namespace)["decidedBy"] == "HorizontalPodAutoscaler")
            namespace.kubectl("annotate", "scaledobject", "chat", "autoscaling.keda.sh/paused-replicas=2")
            namespace.kubectl("delete", "hpa", "keda-hpa-chat")
            _scale(namespace, 2)
            operator.until(lambda: replicas(namespace) == 2)
            time.sleep(5)
            assert replicas(namespace) == 2
            namespace.kubectl("delete", "scaledobject", "chat")
            operator.until(lambda: replicas(namespace) == 3)


@pytest.mark.parametrize("refused", ["list", "watch"])
def test_who_may_not_see_autoscalers_decides_nothing(refused: str, proxy: Proxy, namespace: Namespace, tmp_path: Path):
    def rule(seen: Seen) -> Answer | None:
        return Answer(403) if seen.plural == "horizontalpodautoscalers" and (seen.watches or refused == "list") else None

    proxy.rule = rule
    with Operator(proxy.kubeconfig, namespace.name, tmp_path / "log") as operator:
        namespace.create(**SMALL, autoscaling=BOUNDS)
        operator.until(lambda: children.settled(namespace))
        with answering("127.0.53.32", body=load(9)):
            children.ready_pod(namespace, "127.0.53.32")
            children.finish_rollout(namespace)
            operator.until(lambda: namespace.condition("Progressing")["reason"] == "AutoscalerUnknown")
            assert "grant the operator list and watch of horizontalpodautoscalers" in namespace.condition("Progressing")["message"]
            assert (namespace.reason(), _said(namespace)) == ("Ready", {"replicas": 1, "decidedBy": "Nobody"})
            time.sleep(15)
            assert replicas(namespace) == 1
            assert operator.log.read_text().count("horizontalpodautoscalers cannot be watched") == 1, "said once, and tried again"
            assert len([seen for seen in proxy.seen if seen.plural == "horizontalpodautoscalers" and seen.lists]) > 1
            proxy.rule = None
            operator.until(lambda: proxy.count_watches("horizontalpodautoscalers"))
            # finish_rollout has made a pod of its own in the place of this one.
            children.ready_pod(namespace, "127.0.53.32", "chat-2")
            operator.until(lambda: replicas(namespace) == 3)


def test_watches_of_autoscalers_that_break_are_opened_again(proxy: Proxy, namespace: Namespace, tmp_path: Path):
    """What happened in between is known from the listing: one that came, and one that went."""
    with Operator(proxy.kubeconfig, namespace.name, tmp_path / "log") as operator:
        namespace.create(**SMALL, autoscaling=BOUNDS)
        operator.until(lambda: children.settled(namespace))
        operator.until(lambda: proxy.count_watches("horizontalpodautoscalers"))
        for fault, change, decider in (
            (Torn(proper=False), lambda: _make(namespace, of_keda(namespace.name, "chat")), "HorizontalPodAutoscaler"),
            (GONE, lambda: namespace.kubectl("delete", "hpa", "keda-hpa-chat"), "Load"),
        ):
            proxy.rule, count = once("horizontalpodautoscalers", fault), proxy.count_watches("horizontalpodautoscalers")
            proxy.cut("horizontalpodautoscalers")
            operator.until(lambda count=count: proxy.count_watches("horizontalpodautoscalers") > count)
            change()
            operator.until(lambda decider=decider: _said(namespace)["decidedBy"] == decider)
            operator.until(lambda count=count: proxy.count_watches("horizontalpodautoscalers") >= count + 2)


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


def _make(namespace: Namespace, body: dict[str, Any]) -> None:
    namespace.kubectl("create", "-f", "-", input=json.dumps(body))


def _scale(namespace: Namespace, count: int) -> None:
    """As the controller manager writes for an HPA, and KEDA for itself; neither runs here."""
    namespace.kubectl("patch", "mdep", "chat", "--subresource=scale", "--type=merge", "-p", json.dumps({"spec": {"replicas": count}}))


def _said(namespace: Namespace) -> dict[str, Any]:
    return dict(namespace.get()["status"].get("autoscaling", {"decidedBy": ""}))


def _looks(operator: Operator) -> float:
    try:
        text = httpx.get(f"http://127.0.0.1:{operator.port}/metrics").text
    except httpx.TransportError:
        return 0
    (found,) = re.findall(r"^jitney_operator_reconciles_total ([0-9.e+]+)$", text, re.MULTILINE)
    return float(found)
