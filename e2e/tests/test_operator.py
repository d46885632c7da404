"""The operator in its pod, with the real controllers around it: it changes what it must, nothing else, and survives itself."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator

import pytest
from product import installation, resource
from product.resource import condition
from product.situations import Situation, says

from cluster.kubectl import Kubectl, wait_for
from cluster.target import Cluster

POD = "serving.jitney.dev/model-deployment=smollm2"


def test_a_restart_of_the_operator_changes_nothing(smollm2: str, kubectl: Kubectl, namespace: str) -> None:
    before = _versions(kubectl, namespace)
    assert {name.split("/")[0] for name in before} == {"ModelDeployment", "Deployment", "Service", "Pod"}
    kubectl("rollout", "restart", f"deployment/{installation.DEPLOYMENT}", "-n", installation.NAMESPACE)
    kubectl("rollout", "status", f"deployment/{installation.DEPLOYMENT}", "-n", installation.NAMESPACE, "--timeout=120s", seconds=130)
    wait_for(lambda: _leader(kubectl) in _operators(kubectl), 60, "new leader")
    time.sleep(5)
    assert _versions(kubectl, namespace) == before


def test_an_edited_child_is_put_right(smollm2: str, kubectl: Kubectl, namespace: str) -> None:
    kubectl("scale", "deployment", "smollm2", "--replicas=0", "-n", namespace)
    wait_for(lambda: (kubectl.get("deployment", "smollm2", namespace) or {})["spec"]["replicas"] == 1, 30, "replicas put right")
    kubectl("delete", "service", "smollm2", "-n", namespace)
    wait_for(lambda: kubectl.get("service", "smollm2", namespace), 30, "Service made again")
    resource.wait_ready(kubectl, "smollm2", 120, namespace)


def test_scale_and_suspend(smollm2: str, kubectl: Kubectl, namespace: str) -> None:
    kubectl("scale", "mdep", "smollm2", "--replicas=2", "-n", namespace)
    seen = resource.wait_until(kubectl, "smollm2", "2/2", lambda seen: seen["status"].get("ready") == "2/2", 180, namespace)
    resource.wait_ready(kubectl, "smollm2", 30, namespace)
    kubectl("patch", "mdep", "smollm2", "-n", namespace, "--type=merge", "-p", '{"spec": {"suspend": true}}')
    seen = resource.wait_until(kubectl, "smollm2", "Suspended", lambda seen: seen["status"].get("reason") == "Suspended", 120, namespace)
    assert (condition(seen, "Ready") or {})["status"] == "True"
    assert (condition(seen, "Available") or {})["status"] == "False"
    wait_for(lambda: not kubectl.list("pods", namespace, "-l", POD), 120, "end of the pods")
    kubectl("patch", "mdep", "smollm2", "-n", namespace, "--type=merge", "-p", '{"spec": {"suspend": false, "replicas": 1}}')
    resource.wait_ready(kubectl, "smollm2", 180, namespace)


def test_the_way_to_ready_is_told(apply, situation: Situation, model: str, kubectl: Kubectl, namespace: str) -> None:
    """Loading and warming up are seen on the resource, and every state is an Event."""
    watch = kubectl.open("get", "mdep", "-n", namespace, "--watch")
    apply("told", model=model, rollout={"drainSeconds": 1})
    states = list(resource.states(kubectl, "told", 180, namespace))
    situation("load under way", "told", says("Loading"), "ModelLoaded", "Loading")
    assert [state.reason for state in states][-1] == "Ready"
    assert {"Loading", "WarmingUp"} & {state.reason for state in states}
    assert any(state.progress for state in states)
    assert watch.stdout is not None
    header, lines = watch.stdout.readline(), [""]
    while lines[-1].split()[3:5] != ["1/1", "Ready"]:
        lines.append(watch.stdout.readline())
        assert lines[-1], "the watch has ended"
    # What would come after it, and tell nothing new.
    time.sleep(1)
    watch.terminate()
    lines = [line.rstrip("\n") for line in (*lines[1:], *watch.stdout)]
    print("", header, *lines, sep="\n")
    assert header.split() == ["NAME", "MODEL", "ENGINE", "READY", "STATUS", "PROGRESS", "AGE"]
    # All but the age.
    steps = [line.partition(" transformers ")[2].rsplit(maxsplit=1)[0].strip() for line in lines]
    assert steps[0] == "Pending"
    assert steps[-1].split()[:2] == ["1/1", "Ready"]
    assert not [step for step, following in itertools.pairwise(steps) if step == following], "lines that tell nothing new"
    assert len(steps) <= 10
    events = kubectl("get", "events", "-n", namespace, "--field-selector=involvedObject.kind=ModelDeployment", "-o", "json")
    assert "Ready" in {event["reason"] for event in json.loads(events)["items"]}


@pytest.fixture
def two_operators(cluster: Cluster, kubectl: Kubectl, operator: None) -> Iterator[None]:
    installation.install(cluster, kubectl, installation.VALUES, "--set", "replicas=2")
    yield
    installation.install(cluster, kubectl)


def test_the_standby_takes_over(two_operators: None, apply, kubectl: Kubectl, namespace: str) -> None:
    wait_for(lambda: len(_operators(kubectl)) == 2 and _leader(kubectl) in _operators(kubectl), 60, "leader among two")
    leader = _leader(kubectl)
    kubectl("delete", "pod", leader, "-n", installation.NAMESPACE, "--grace-period=0", "--force")
    killed = time.monotonic()
    apply("after", model="file:///nowhere", replicas=0)
    resource.wait_until(kubectl, "after", "ScaledToZero", lambda seen: seen["status"].get("reason") == "ScaledToZero", 60, namespace)
    assert _leader(kubectl) != leader
    print(f"\nthe standby had acted {time.monotonic() - killed:.1f} s after the leader was killed")


def _versions(kubectl: Kubectl, namespace: str) -> dict[str, str]:
    found = json.loads(kubectl("get", "mdep,deployments,services,pods", "-n", namespace, "-o", "json"))["items"]
    return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in found}


def _operators(kubectl: Kubectl) -> list[str]:
    pods = kubectl.list("pods", installation.NAMESPACE)
    return [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def _leader(kubectl: Kubectl) -> str:
    lease = kubectl.get("lease", "jitney-operator", installation.NAMESPACE) or {}
    return str(lease.get("spec", {}).get("holderIdentity", "")).split("_")[0]
