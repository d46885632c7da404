"""The front door in a cluster, from the chart: one URL for every model, launches by Xinference's calls, and no answer that is cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import httpx
import pytest
from product import front_door, installation, model_claim, resource
from product.client import Chat, Client
from product.front_door import HOME
from product.restricted import assert_restricted
from product.rollouts import Rollout
from test_model import model_folder
from xinference_client import RESTfulClient

from cluster.kubectl import CommandFailed, Kubectl, wait_for
from cluster.target import Cluster

OURS = "app.kubernetes.io/name=jitney-gateway"
# All that the chart makes for it.
OBJECTS = (
    "deployments,services,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,"
    "validatingadmissionpolicies,validatingadmissionpolicybindings"
)
REGISTRATIONS = "jitney-registrations"
IN_CLUSTER = f"http://jitney-gateway.{installation.NAMESPACE}.svc.cluster.local/v1"


@pytest.fixture(scope="module")
def door(cluster: Cluster, kubectl: Kubectl, operator: None) -> Iterator[str]:
    """Two of them, which launch into `default` and serve all namespaces; the URL for this machine."""
    with front_door.installed(cluster, kubectl, namespaces="{*}") as url:
        yield url
    assert not kubectl("get", OBJECTS, "--all-namespaces", "-l", OURS, "-o", "name").split()


@pytest.fixture(scope="module", autouse=True)
def hopeless(door: str) -> Iterator[Future[None]]:
    """A launch that is given up after a minute, which nobody waits for in vain."""
    fields = {"model_engine": "transformers", "model_uid": "lost", "model_path": "pvc://nowhere/x"}
    with ThreadPoolExecutor(1) as threads:
        yield threads.submit(lambda: RESTfulClient(door).launch_model("smollm2-instruct", **fields))


def test_its_pod_is_a_restricted_one(door: str, kubectl: Kubectl, namespace: str) -> None:
    assert_restricted(kubectl, kubectl.list("pods", installation.NAMESPACE, "-l", OURS)[0], namespace)


def test_launched_by_xinferences_client(door: str, cluster: Cluster, kubectl: Kubectl) -> None:
    """The published package, unchanged; what it launches is a ModelDeployment, and goes when it is terminated."""
    reference = model_claim.provide(cluster, kubectl, model_folder(), HOME)
    client = RESTfulClient(door)
    uid = client.launch_model("smollm2-instruct", model_engine="transformers", model_uid="by-call.1", model_path=reference, max_num_seqs=4)
    try:
        made = kubectl.get("mdep", "by-call-1", HOME) or {}
        assert (made["spec"]["servedModelName"], made["spec"]["maxNumSeqs"], made["status"]["ready"]) == (uid, 4, "1/1")
        assert client.list_models()[uid]["status"] == "READY"
        question = [{"role": "user", "content": "What is the capital of France?"}]
        answer = client.get_model(uid).chat(question, generate_config={"max_tokens": 16, "temperature": 0})
        assert "Paris" in answer["choices"][0]["message"]["content"]
        pieces = list(client.get_model(uid).chat(question, generate_config={"max_tokens": 16, "temperature": 0, "stream": True}))
        assert "Paris" in "".join(piece["choices"][0]["delta"].get("content") or "" for piece in pieces if piece["choices"])
        assert f"ready: {uid} on " in _command_line(cluster, "logs", "--model-uid", uid, "--lines", "10000")
    finally:
        client.terminate_model(uid)
    wait_for(lambda: not kubectl.get("mdep", "by-call-1", HOME), 60, "its end")


@pytest.fixture
def unregistered(door: str, kubectl: Kubectl) -> Iterator[None]:
    """No custom model is kept in the cluster, before and after."""

    def forget() -> None:
        kubectl("delete", "configmap", REGISTRATIONS, "-n", HOME, "--ignore-not-found")

    forget()
    yield
    forget()


def test_custom_models_are_kept_in_the_cluster(door: str, unregistered: None, kubectl: Kubectl) -> None:
    """The first one makes the ConfigMap, the second one changes it, and both doors behind the URL read it."""
    client = RESTfulClient(door)
    spec = {"model_format": "pytorch", "model_size_in_billions": 1, "quantization": "none"}
    families = {
        name: {"version": 2, "model_name": name, "model_specs": [spec | {"model_id": f"team/{name}"}]} for name in ("mine", "yours")
    }
    for name, family in families.items():
        client.register_model("LLM", json.dumps(family), persist=True)
        told = client.get_model_registration("LLM", name)
        assert (told["model_name"], told["model_specs"][0]["model_id"], told["is_builtin"]) == (name, f"team/{name}", False)
    kept = (kubectl.get("configmap", REGISTRATIONS, HOME) or {})["data"]
    assert {name: json.loads(text) for name, text in kept.items()} == families
    client.unregister_model("LLM", "mine")
    found = {entry["model_name"] for entry in client.list_model_registrations("LLM") if not entry["is_builtin"]}
    assert found == {"yours"}


def test_of_a_model_it_changes_annotations_only(door: str, kubectl: Kubectl, namespace: str) -> None:
    """Its role says patch, and the chart's policy what."""
    metadata = {"name": "m", "namespace": namespace}
    body = {"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "metadata": metadata}
    kubectl.apply({**body, "spec": {"model": "a/b", "suspend": True}})

    def patch(**changed: object) -> None:
        # kubectl's other ways to patch ask for the right to read first.
        account = f"--as=system:serviceaccount:{installation.NAMESPACE}:jitney-gateway"
        # A manager of its own: what another one owns and is not sent again would be taken away.
        manager = "--field-manager=jitney-gateway"
        kubectl("apply", "--server-side", manager, "-f", "-", account, input=json.dumps({**body, **changed}))

    patch(metadata={**metadata, "annotations": {"serving.jitney.dev/wanted-at": "x"}})
    with pytest.raises(CommandFailed, match="the front door changes no spec"):
        patch(spec={"image": "elsewhere/x:1"})
    with pytest.raises(CommandFailed, match="the front door changes no labels"):
        patch(metadata={**metadata, "labels": {"a": "b"}})


def test_the_command_line_finds_it_through_the_kubeconfig(door: str, smollm2: str, cluster: Cluster, namespace: str) -> None:
    """No endpoint is given: through a port-forward of the Kubernetes client, and the kubelet's."""
    listed = json.loads(_command_line(cluster, "list", "-o", "json"))
    assert {entry["id"]: entry["status"] for entry in listed}[f"{namespace}/smollm2"] == "READY"


def test_a_model_that_nobody_knows(door: str) -> None:
    body = {"model": "nobody", "messages": [{"role": "user", "content": "Hello"}]}
    answer = httpx.post(f"{door}/v1/chat/completions", json=body, timeout=30)
    assert (answer.status_code, "nobody" in answer.json()["error"]["message"]) == (404, True)


def test_a_launch_that_cannot_be_says_why(hopeless: Future[None], kubectl: Kubectl) -> None:
    with pytest.raises(RuntimeError, match="There is no PersistentVolumeClaim nowhere"):
        hopeless.result(120)
    assert not kubectl.get("mdep", "lost", HOME)


def test_a_replaced_door_and_a_drained_replica_cut_no_answer(
    door: str, smollm2: str, rollout: Rollout, client: Client, kubectl: Kubectl, namespace: str
) -> None:
    """Sixteen long chats at a time through the Service of two doors, to two replicas; both doors and one replica are replaced, one after
    the other, each in the middle of answers."""
    kubectl("scale", "mdep", "smollm2", "-n", namespace, "--replicas=2")
    resource.wait_until(kubectl, "smollm2", "2/2", lambda seen: seen["status"].get("ready") == "2/2", 180, namespace)
    model = f"{namespace}/smollm2"
    load = client.start(IN_CLUSTER, model, max_tokens=128, seconds=300)
    wait_for(lambda: len(_lines(client, load)) >= 16, 120, "first answers")
    replicas = kubectl.list("pods", namespace, "-l", "serving.jitney.dev/model-deployment=smollm2")
    doors = [(pod["metadata"]["name"], installation.NAMESPACE) for pod in kubectl.list("pods", installation.NAMESPACE, "-l", OURS)]
    replaced = []
    for name, where in (*doors, (replicas[0]["metadata"]["name"], namespace)):
        replaced.append(time.time())
        kubectl("delete", "pod", name, "-n", where, "--timeout=180s")
        kubectl("rollout", "status", "deployment/jitney-gateway", "-n", installation.NAMESPACE, "--timeout=120s")
    resource.wait_ready(kubectl, "smollm2", 120, namespace)
    client.enough(load)
    chats = client.finish(load)
    rollout("door and replica replaced", chats)
    assert all(any(chat.started < at < chat.ended for chat in chats) for at in replaced), "none was under way"
    errors = sorted({chat.error for chat in chats if chat.error})
    assert not errors


def test_a_model_that_sleeps_is_woken(door: str, smollm2: str, rollout: Rollout, kubectl: Kubectl, namespace: str) -> None:
    """Its question waits meanwhile; what is suspended stays so."""
    kubectl("scale", "mdep", "smollm2", "-n", namespace, "--replicas=0")
    resource.wait_until(kubectl, "smollm2", "asleep", lambda seen: seen["status"].get("reason") == "ScaledToZero", 120, namespace)
    begun = time.monotonic()
    body = {"model": f"{namespace}/smollm2", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    answer = httpx.post(f"{door}/v1/chat/completions", json=body, timeout=180)
    assert answer.status_code == 200, answer.text
    print(f"\nanswered {time.monotonic() - begun:.1f} s after it was asked of a model with no replica")
    rollout("scaled to zero and woken", [_chat(answer)])
    kubectl("patch", "mdep", "smollm2", "-n", namespace, "--type=merge", "-p", '{"spec": {"suspend": true}}')
    resource.wait_until(kubectl, "smollm2", "Suspended", lambda seen: seen["status"].get("reason") == "Suspended", 120, namespace)
    refused = httpx.post(f"{door}/v1/chat/completions", json=body, timeout=60)
    assert refused.status_code == 503
    assert "suspend" in refused.json()["error"]["message"]


def test_a_model_that_its_load_sends_to_sleep_is_woken(
    door: str, apply: Callable[..., None], model: str, rollout: Rollout, kubectl: Kubectl, namespace: str
) -> None:
    """No pod of it is left; its question waits, and nobody changes the spec."""
    apply("smollm2", model=model, autoscaling={"minReplicas": 0, "maxReplicas": 2, "scaleDownDelaySeconds": 5})
    resource.wait_ready(kubectl, "smollm2", 180, namespace)
    seen = resource.wait_until(kubectl, "smollm2", "asleep", lambda seen: seen["status"].get("reason") == "ScaledToZero", 120, namespace)
    assert (seen["status"]["autoscaling"], seen["status"]["ready"]) == ({"replicas": 0, "decidedBy": "Load"}, "0/0")
    pods = "serving.jitney.dev/model-deployment=smollm2"
    wait_for(lambda: not kubectl.list("pods", namespace, "-l", pods), 180, "the end of its pods")
    begun = time.monotonic()
    body = {"model": f"{namespace}/smollm2", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    answer = httpx.post(f"{door}/v1/chat/completions", json=body, timeout=180)
    assert answer.status_code == 200, answer.text
    print(f"\nanswered {time.monotonic() - begun:.1f} s after it was asked of a model that its load had sent to sleep")
    rollout("asleep at zero and woken", [_chat(answer)])
    assert (kubectl.get("mdep", "smollm2", namespace) or {})["metadata"]["generation"] == seen["metadata"]["generation"]


def _command_line(cluster: Cluster, *arguments: str) -> str:
    """What `jitney` prints to whoever has the kubeconfig and nothing else."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_ENDPOINT")} | {
        "KUBECONFIG": str(cluster.kubeconfig)
    }
    command = [sys.executable, "-m", "jitney_gateway.cli", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _chat(answer: httpx.Response) -> Chat:
    """One that was answered, and not streamed."""
    (choice,), seconds = answer.json()["choices"], answer.elapsed.total_seconds()
    return Chat(1, "Hello", choice["message"]["content"], time.time() - seconds, seconds, finish_reason=choice["finish_reason"])


def _lines(client: Client, load: str) -> list[object]:
    try:
        return list(client.lines(load))
    except RuntimeError:
        # Its pod has not started yet.
        return []
