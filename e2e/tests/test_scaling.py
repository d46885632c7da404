"""Under a steady load of 16 chats: rollouts, scaling, a polite delete and suspend cut no answer, and the load itself scales the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from product import resource
from product.chats import PROMPTS
from product.client import Chat, Client
from product.eye import Eye
from product.rollouts import Rollout, refused

from cluster import binaries
from cluster import metrics_server as metrics_server_process
from cluster.images import REPOSITORY, SECOND_FILE, SECOND_RUNTIME
from cluster.kubectl import CommandFailed, Kubectl, wait_for
from cluster.local import LocalCluster
from cluster.target import Cluster

POD = "serving.jitney.dev/model-deployment=smollm2"
# In every container of the second build, and in none of the first.
MARK = "/etc/jitney-second-build"
# Seconds for which less load must have lasted, and the operator's two between two looks at it: one of them may have gone amiss.
DELAY, LOOKS = 15, 4


@pytest.fixture
def second_build(cluster: Cluster) -> str:
    """Another image of the runtime, ready to be rolled out to."""
    cluster.provide(SECOND_RUNTIME)
    return cluster.reference(SECOND_RUNTIME)


def test_rollouts_and_scaling_cut_no_answer(
    smollm2: str, second_build: str, rollout: Rollout, client: Client, kubectl: Kubectl, namespace: str, eye: Eye
) -> None:
    """Another width, another image, then one replica, three, one: there is always a pod that answers, so every chat is."""
    load = _load(client, smollm2)
    wait_for(lambda: _answered(client, load) >= 16, 120, "first answers")
    begun = {"maxNumSeqs edited under load": time.time()}
    _patch(kubectl, namespace, '{"spec": {"maxNumSeqs": 8}}')
    resource.wait_ready(kubectl, "smollm2", 120, namespace)
    (serving,) = _serving(kubectl, namespace)
    assert _flag(serving, "--max-num-seqs") == "8"
    begun["image changed under load"] = time.time()
    _patch(kubectl, namespace, f'{{"spec": {{"image": "{second_build}"}}}}')
    resource.wait_ready(kubectl, "smollm2", 120, namespace)
    (changed,) = _serving(kubectl, namespace)
    print(f"image changed under load: {_image_id(serving)} to {_image_id(changed)}, {second_build}")
    assert _image_id(changed) != _image_id(serving)
    assert _second_build_in(kubectl, changed) == (REPOSITORY / SECOND_FILE).read_text()
    begun["scaled 1 to 3 to 1 under load"] = time.time()
    kubectl("scale", "mdep", "smollm2", "-n", namespace, "--replicas=3")
    seen = resource.wait_ready(kubectl, "smollm2", 180, namespace)
    assert seen["status"]["ready"] == "3/3"
    assert {_image_id(pod) for pod in _serving(kubectl, namespace)} == {_image_id(changed)}
    kubectl("scale", "mdep", "smollm2", "-n", namespace, "--replicas=1")
    _wait_for_pods(kubectl, namespace, 1)
    chats = _finish(client, load)
    rollout.steps(begun, chats)
    assert not [chat.error for chat in chats if chat.error]
    assert resource.wait_ready(kubectl, "smollm2", 60, namespace)["status"]["ready"] == "1/1"
    # The status said all along who answers: the revision before, then both or the new one, and never nobody.
    states = [found["status"] for found in eye.seen("modeldeployments") if found["metadata"]["namespace"] == namespace]
    first = next(number for number, status in enumerate(states) if status.get("reason") == "Ready")
    serving_states = [(status["serving"]["current"], status["serving"]["previous"]) for status in states[first:]]
    assert (0, 1) in serving_states
    assert (0, 0) not in serving_states


def test_the_only_gpu_of_a_node_is_handed_on(
    apply: Callable[..., None],
    model: str,
    gpu_on_paper: None,
    rollout: Rollout,
    client: Client,
    kubectl: Kubectl,
    namespace: str,
    eye: Eye,
) -> None:
    """No second one is needed: the old pod finishes its answers and leaves, the new one waits for that, and nobody gets half an answer."""
    small = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "4Gi"}}
    # The node's GPU is on paper only, so the pod that holds it computes on the processor.
    gpu = {"resourceProfile": "nvidia-gpu", "resources": small, "args": ["--device", "cpu"]}
    apply("smollm2", model=model, **gpu, rollout={"drainSeconds": 30})
    resource.wait_ready(kubectl, "smollm2", 180, namespace)
    load = _load(client, f"http://smollm2.{namespace}.svc.cluster.local/v1")
    wait_for(lambda: _answered(client, load) >= 16, 120, "first answers")
    edited = time.time()
    _patch(kubectl, namespace, '{"spec": {"maxNumSeqs": 8}}')
    resource.wait_ready(kubectl, "smollm2", 120, namespace)
    (serving,) = _serving(kubectl, namespace)
    assert _flag(serving, "--max-num-seqs") == "8"
    assert serving["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    begun = time.time()
    chats = _finish(client, load)
    rollout.steps({"one GPU handed on": edited}, chats)
    _assert_turned_away_at_the_door(chats)
    assert any(chat.ended >= begun and not chat.error for chat in chats), "the new pod answers"
    reasons = {found["status"].get("reason") for found in eye.seen("modeldeployments") if found["metadata"]["namespace"] == namespace}
    assert "WaitingForDrain" in reasons
    assert "InsufficientGPU" not in reasons


def test_a_polite_delete_recreate_and_suspend_leave_no_half_answers(
    smollm2: str, rollout: Rollout, client: Client, kubectl: Kubectl, namespace: str
) -> None:
    """With one replica somebody has to be turned away: before the first byte, never after it."""
    load = _load(client, smollm2)
    wait_for(lambda: _answered(client, load) >= 16, 120, "first answers")
    (old,) = _pods(kubectl, namespace)
    begun = {"pod deleted politely": time.time()}
    kubectl("delete", "pod", old["metadata"]["name"], "-n", namespace, "--wait=false")
    wait_for(lambda: old["metadata"]["name"] not in [pod["metadata"]["name"] for pod in _pods(kubectl, namespace)], 120, "its end")
    resource.wait_ready(kubectl, "smollm2", 120, namespace)
    begun["Recreate under load"] = time.time()
    _patch(kubectl, namespace, '{"spec": {"maxNumSeqs": 8, "rollout": {"strategy": "Recreate"}}}')
    resource.wait_ready(kubectl, "smollm2", 120, namespace)
    (serving,) = _serving(kubectl, namespace)
    assert _flag(serving, "--max-num-seqs") == "8"
    begun["suspended under load"] = time.time()
    _patch(kubectl, namespace, '{"spec": {"suspend": true}}')
    _wait_for_pods(kubectl, namespace, 0)
    chats = _finish(client, load)
    rollout.steps(begun, chats)
    assert [chat for chat in chats if chat.error], "nobody came while no pod was there: this proves nothing"
    _assert_turned_away_at_the_door(chats)


def test_a_model_scales_with_its_load(
    apply: Callable[..., None], model: str, rollout: Rollout, client: Client, kubectl: Kubectl, namespace: str, eye: Eye
) -> None:
    """From one replica to three and, after the delay, back, without Prometheus and without a cut answer."""
    bounds = {"minReplicas": 1, "maxReplicas": 3, "targetRequestsPerReplica": 4, "scaleDownDelaySeconds": DELAY}
    apply("smollm2", model=model, autoscaling=bounds, rollout={"drainSeconds": 30})
    assert resource.wait_ready(kubectl, "smollm2", 180, namespace)["status"]["ready"] == "1/1"
    url = f"http://smollm2.{namespace}.svc.cluster.local/v1"
    begun = time.monotonic()
    load = _load(client, url)
    asked = resource.wait_until(kubectl, "smollm2", "three replicas asked for", _wants(3), 60, namespace)
    print(f"three replicas asked for {time.monotonic() - begun:.1f} s after the load's pod was made")
    assert asked["spec"].get("replicas", 1) == 1, "the spec is the person's"
    resource.wait_until(kubectl, "smollm2", "three ready", lambda found: found["status"].get("ready") == "3/3", 180, namespace)
    chats = _finish(client, load)
    # Until then five at least were under way, which is more than one replica is to have.
    busy = sorted(chat.ended for chat in chats)[-5]

    def is_left_with_one(found: dict[str, Any]) -> bool:
        return found["metadata"]["namespace"] == namespace and _wants(1)(found)

    waited = eye.first("modeldeployments", is_left_with_one, 60, "one replica asked for", since=busy) - busy
    print(f"one replica asked for {waited:.1f} s after it would have been enough")
    assert waited > DELAY - LOOKS
    _wait_for_pods(kubectl, namespace, 1)
    rollout("autoscaled 1 to 3 to 1", chats)
    assert not [chat.error for chat in chats if chat.error]
    assert resource.wait_ready(kubectl, "smollm2", 60, namespace)["status"]["ready"] == "1/1"


@pytest.fixture
def metrics_server(cluster: Cluster) -> None:
    """Asked by HorizontalPodAutoscalers."""
    if not isinstance(cluster, LocalCluster):
        pytest.skip("other clusters bring their own metrics-server, or do without")
    binaries.build((binaries.METRICS,))
    metrics_server_process.start(cluster.plane)


def test_an_autoscaler_of_kubernetes_reads_and_writes_its_scale(
    metrics_server: None, smollm2: str, rollout: Rollout, client: Client, kubectl: Kubectl, namespace: str
) -> None:
    """A HorizontalPodAutoscaler on the resource itself, with the real metrics-server; ours leaves the number to it."""
    load = _load(client, smollm2)
    target = {"type": "AverageValue", "averageValue": "400m"}
    spec = {
        "scaleTargetRef": {"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "name": "smollm2"},
        "minReplicas": 1,
        "maxReplicas": 2,
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
    }
    metadata = {"name": "smollm2", "namespace": namespace}
    kubectl.apply({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": metadata, "spec": spec})
    begun = time.monotonic()
    resource.wait_until(kubectl, "smollm2", "two replicas asked for by it", lambda found: found["spec"]["replicas"] == 2, 120, namespace)
    print(f"it asked for two replicas {time.monotonic() - begun:.1f} s after it was made")
    resource.wait_until(kubectl, "smollm2", "two ready", lambda found: found["status"].get("ready") == "2/2", 120, namespace)
    _patch(kubectl, namespace, '{"spec": {"autoscaling": {"minReplicas": 3, "maxReplicas": 5}}}')
    decided = {"replicas": 2, "decidedBy": "HorizontalPodAutoscaler"}
    resource.wait_until(kubectl, "smollm2", f"{decided}", lambda found: found["status"].get("autoscaling") == decided, 30, namespace)
    wait_for(lambda: _replicas_it_reads(kubectl, namespace) == 2, 60, "two replicas that it reads")
    chats = _finish(client, load)
    rollout("HorizontalPodAutoscaler owns replicas", chats)
    assert not [chat.error for chat in chats if chat.error]
    resource.wait_until(kubectl, "smollm2", "one replica asked for by it", lambda found: found["spec"]["replicas"] == 1, 120, namespace)
    _wait_for_pods(kubectl, namespace, 1)
    assert resource.wait_ready(kubectl, "smollm2", 60, namespace)["status"]["ready"] == "1/1"


def _replicas_it_reads(kubectl: Kubectl, namespace: str) -> int | None:
    """Once it finds everything it needs on the scale subresource."""
    status = (kubectl.get("hpa", "smollm2", namespace) or {})["status"]
    conditions = {entry["type"]: entry["status"] for entry in status.get("conditions", ())}
    found = conditions.get("AbleToScale") == conditions.get("ScalingActive") == "True" and status.get("currentMetrics")
    return int(status["currentReplicas"]) if found else None


def _load(client: Client, url: str) -> str:
    """Sixteen chats at a time, until _finish, and for 5 minutes at most."""
    return client.start(url, "smollm2", prompts=PROMPTS, max_tokens=32, seconds=300)


def _finish(client: Client, load: str) -> list[Chat]:
    client.enough(load)
    chats = client.finish(load)
    print(_summary(chats))
    return chats


def _assert_turned_away_at_the_door(chats: list[Chat]) -> None:
    """Whoever got no answer was refused, or told 503, before a first byte."""
    assert not [chat for chat in chats if chat.error and not refused(chat)], _summary(chats)


def _serving(kubectl: Kubectl, namespace: str) -> list[dict[str, Any]]:
    return [pod for pod in _pods(kubectl, namespace) if "deletionTimestamp" not in pod["metadata"]]


def _flag(pod: dict[str, Any], name: str) -> str:
    args = pod["spec"]["containers"][0]["args"]
    return str(args[args.index(name) + 1])


def _image_id(pod: dict[str, Any]) -> str:
    """Of the image that its container runs, whatever it is called."""
    (container,) = pod["status"]["containerStatuses"]
    return str(container["imageID"])


def _second_build_in(kubectl: Kubectl, pod: dict[str, Any]) -> str:
    return kubectl("exec", pod["metadata"]["name"], "-n", pod["metadata"]["namespace"], "--", "cat", MARK)


def _answered(client: Client, load: str) -> int:
    try:
        return len(client.lines(load))
    except CommandFailed:
        # Its pod has not started yet.
        return 0


def _wants(replicas: int) -> Callable[[dict[str, Any]], bool]:
    return lambda found: (found["status"].get("autoscaling") or {}).get("replicas") == replicas


def _patch(kubectl: Kubectl, namespace: str, patch: str) -> None:
    kubectl("patch", "mdep", "smollm2", "-n", namespace, "--type=merge", "-p", patch)


def _pods(kubectl: Kubectl, namespace: str) -> list[dict[str, Any]]:
    return kubectl.list("pods", namespace, "-l", POD)


def _wait_for_pods(kubectl: Kubectl, namespace: str, count: int) -> None:
    wait_for(lambda: len(_pods(kubectl, namespace)) == count, 180, f"{count} pods")


def _summary(chats: list[Chat]) -> str:
    errors = sorted({chat.error for chat in chats if chat.error})
    halves = sum(bool(chat.error and chat.answer) for chat in chats)
    return f"{len(chats)} chats, {sum(not chat.error for chat in chats)} answered, {halves} half answers, errors {errors}"
