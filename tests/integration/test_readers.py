"""What tools that wait for resources make of ours at each moment: kstatus by its own library, Argo CD by the script in docs/gitops.md."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import binaries
from cluster.control_plane import ControlPlane
from jitney_operator.api import LABEL
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


@pytest.fixture
def serving(namespace: Namespace, operator: Operator) -> str:
    """The name of a pod that serves, of a resource that is Ready."""
    namespace.create(**SMALL)
    operator.until(lambda: children.settled(namespace))
    children.finish_rollout(namespace)
    operator.until(lambda: reason(namespace) == "Ready")
    return namespace.kubectl("get", "pods", "-o", "jsonpath={.items[0].metadata.name}")


NEW = "chat-new"


@pytest.fixture
def rolling(serving: str, namespace: Namespace, operator: Operator) -> Namespace:
    """A new generation that the operator has looked at. A pod of it is made; the one before serves."""
    before = children.deployment(namespace)["metadata"]["generation"]
    namespace.update(maxNumSeqs=4)
    operator.until(lambda: children.deployment(namespace)["metadata"]["generation"] > before)
    children.make_pod(namespace, NEW)
    say(namespace, replicas=2, updatedReplicas=1)
    operator.until(lambda: children.settled(namespace) and namespace.get()["status"]["updatedReplicas"] == 1)
    assert namespace.get()["status"]["serving"] == {"current": 0, "previous": 1}
    return namespace


def say(namespace: Namespace, **status: Any) -> None:
    """As the Deployment controller does, of the newest spec."""
    status["observedGeneration"] = children.deployment(namespace)["metadata"]["generation"]
    namespace.kubectl("patch", "deployment", "chat", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def give_up(namespace: Namespace) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    verdict = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "", "lastUpdateTime": now}
    say(namespace, conditions=[{**verdict, "lastTransitionTime": now}])


def cannot_pull(namespace: Namespace, pod: str) -> None:
    children.set_container(namespace, {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}, pod)


def scale(namespace: Namespace) -> dict[str, Any]:
    """What `kubectl scale` and autoscalers read: the replicas wanted, those there are, and the pods' labels."""
    path = f"/apis/serving.jitney.dev/v1alpha1/namespaces/{namespace.name}/modeldeployments/chat/scale"
    found = json.loads(namespace.kubectl("get", "--raw", path))
    status = found["status"]
    return {"wanted": found["spec"]["replicas"], "there": status["replicas"], "selector": status.get("selector", "")}


def test_a_resource_that_no_operator_has_seen(namespace: Namespace, said: Said):
    namespace.create(**SMALL, replicas=2)
    assert said() == ("InProgress", "Progressing")
    # A HorizontalPodAutoscaler that reads this decides nothing: without a selector it knows no pods, says so (ScalingActive=False,
    # InvalidSelector) and leaves the replicas as they are.
    assert scale(namespace) == {"wanted": 2, "there": 0, "selector": ""}


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
    namespace.kubectl("patch", "mdep", "chat", "--type=merge", "-p", '{"spec": {"maxNumSeqs": 4, "replicas": 3}}')
    assert said() == ("InProgress", "Progressing")
    # An autoscaler decides from what is wanted and from the pods that the selector finds, so what nobody looked at yet misleads none.
    assert scale(namespace) == {"wanted": 3, "there": 1, "selector": f"{LABEL}=chat"}


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


def test_a_model_that_its_load_sent_to_sleep_is_well_and_then_wakes(namespace: Namespace, plane: ControlPlane, tmp_path: Path, said: Said):
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
        generation = namespace.get()["metadata"]["generation"]
        namespace.kubectl("annotate", "mdep", "chat", f"serving.jitney.dev/wanted-at={datetime.now(UTC).isoformat()}")
        operator.until(lambda: reason(namespace) == "Pending")
        assert said() == ("InProgress", "Progressing")
        assert namespace.get()["metadata"]["generation"] == generation, "no new spec tells that it is awaited"
        children.finish_rollout(namespace)
        operator.until(lambda: reason(namespace) == "Ready")
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


def test_a_child_that_is_invalid_has_failed(namespace: Namespace, operator: Operator, said: Said):
    """More memory asked for than the profile's limit allows."""
    namespace.create(**SMALL, resources={"requests": {"memory": "900Gi"}})
    operator.until(lambda: reason(namespace) == "ChildRefused")
    assert said() == ("Failed", "Degraded")


def test_a_failure_that_may_pass_is_on_its_way(namespace: Namespace, operator: Operator, said: Said):
    namespace.create(**SMALL)
    operator.until(lambda: children.deployment(namespace))
    children.make_pod(namespace)
    cannot_pull(namespace, "chat-1")
    operator.until(lambda: reason(namespace) == "ImagePullError")
    assert said() == ("InProgress", "Degraded")


def test_a_start_that_goes_on_is_on_its_way(namespace: Namespace, operator: Operator, said: Said):
    namespace.create(**SMALL)
    operator.until(lambda: children.settled(namespace))
    address = "127.0.53.30"
    with answering(address, 503) as runtime:
        children.make_pod(namespace)
        children.set_container(namespace, {"running": {}}, podIP=address, podIPs=[{"ip": address}])
        for word, line in (("Downloading", "downloading 1.2/3.1 GB"), ("Loading", "loading 64 %"), ("WarmingUp", "warming up")):
            runtime.body = json.dumps({"status": "starting", "reason": word, "progress": line}).encode()
            operator.until(lambda word=word: reason(namespace) == word)
            assert said() == ("InProgress", "Progressing")


def test_a_rollout_behind_a_revision_that_serves_is_on_its_way(rolling: Namespace, operator: Operator, said: Said):
    """Who waits for the new revision is not content with the one before."""
    assert rolling.condition("Available")["status"] == "True"
    assert said() == ("InProgress", "Progressing")
    # The pod too many counts among those there are, as a Deployment's does, and never among those wanted.
    assert scale(rolling) == {"wanted": 1, "there": 2, "selector": f"{LABEL}=chat"}
    children.finish_rollout(rolling)
    operator.until(lambda: reason(rolling) == "Ready")
    assert said() == ("Current", "Healthy")


def test_a_rollout_that_is_stuck_behind_one_that_serves_may_still_come(rolling: Namespace, operator: Operator, said: Said):
    cannot_pull(rolling, NEW)
    operator.until(lambda: reason(rolling) == "ImagePullError")
    assert rolling.condition("Available")["status"] == "True"
    assert said() == ("InProgress", "Degraded")


def test_a_rollout_that_is_out_of_time_has_failed_until_it_moves_again(rolling: Namespace, operator: Operator, said: Said):
    """As kstatus has it of a Deployment: whoever waits would wait for nothing. The revision before goes on serving."""
    cannot_pull(rolling, NEW)
    operator.until(lambda: reason(rolling) == "ImagePullError")
    give_up(rolling)
    operator.until(lambda: rolling.condition("Stalled"))
    assert (reason(rolling), rolling.condition("Available")["status"]) == ("ImagePullError", "True")
    assert said() == ("Failed", "Degraded")
    # The image has come after all; Kubernetes takes nothing back before the pod is ready.
    later = (datetime.now(UTC) + timedelta(seconds=2)).strftime("%Y-%m-%dT%H:%M:%SZ")
    children.set_container(rolling, {"running": {"startedAt": later}}, NEW)
    operator.until(lambda: not rolling.condition("Stalled"))
    assert said() == ("InProgress", "Progressing")
    cannot_pull(rolling, NEW)
    operator.until(lambda: rolling.condition("Stalled"))
    before = children.deployment(rolling)["metadata"]["generation"]
    rolling.update(maxNumSeqs=8)
    assert said() == ("InProgress", "Progressing"), "of a spec that nobody has looked at"
    # The Deployment controller has not seen it: its verdict is of the rollout before.
    operator.until(lambda: children.deployment(rolling)["metadata"]["generation"] > before and children.settled(rolling))
    assert said() == ("InProgress", "Progressing")
    children.finish_rollout(rolling)
    operator.until(lambda: reason(rolling) == "Ready")
    assert said() == ("Current", "Healthy"), "whatever the Deployment goes on to say of before"


def test_a_lost_node_is_trouble_that_may_pass(serving: str, namespace: Namespace, operator: Operator, said: Said):
    silent = [{"type": "Ready", "status": "False", "reason": "NodeNotReady"}, {"type": "ContainersReady", "status": "True"}]
    children.set_container(namespace, {"running": {}}, serving, conditions=silent)
    operator.until(lambda: reason(namespace) == "NodeLost")
    assert said() == ("InProgress", "Degraded")
    say(namespace, readyReplicas=0, availableReplicas=0)
    assert said() == ("InProgress", "Degraded")


def test_more_replicas_are_awaited(serving: str, namespace: Namespace, operator: Operator, said: Said):
    namespace.kubectl("scale", "mdep", "chat", "--replicas=2")
    operator.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 2)
    children.make_pod(namespace, "chat-second")
    children.set_container(namespace, {"running": {}}, "chat-second", conditions=[{"type": "Ready", "status": "False"}])
    say(namespace, replicas=2, updatedReplicas=2, readyReplicas=1)
    operator.until(lambda: children.settled(namespace) and namespace.get()["status"]["ready"] == "1/2")
    assert said() == ("InProgress", "Progressing")


def test_a_replica_too_many_is_awaited_and_its_last_answers_are_not(serving: str, namespace: Namespace, operator: Operator, said: Said):
    namespace.kubectl("scale", "mdep", "chat", "--replicas=2")
    operator.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 2)
    children.finish_rollout(namespace)
    operator.until(lambda: namespace.get()["status"]["ready"] == "2/2" and reason(namespace) == "Ready")
    namespace.kubectl("scale", "mdep", "chat", "--replicas=1")
    operator.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 1 and children.settled(namespace))
    assert namespace.get()["status"]["ready"] == "2/1"
    assert said() == ("InProgress", "Progressing")
    # No kubelet is here that would end it: it leaves for as long as the test looks.
    namespace.kubectl("delete", "pod", serving, "--wait=false")
    say(namespace, replicas=1, updatedReplicas=1, readyReplicas=1, availableReplicas=1)
    operator.until(lambda: reason(namespace) == "Ready")
    assert namespace.kubectl("get", "pod", serving, "-o", "jsonpath={.metadata.deletionTimestamp}")
    assert said() == ("Current", "Healthy")
