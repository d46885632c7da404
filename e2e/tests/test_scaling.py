"""Under a steady load of 16 chats: rollouts, scaling, a polite delete and suspend cut no answer, and the load itself scales the model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from product import resource
from product.chats import PROMPTS
from product.client import Chat, Client

from cluster.images import RUNTIME
from cluster.kubectl import CommandFailed, Kubectl, wait_for

POD = "serving.jitney.dev/model-deployment=smollm2"
SAME_IMAGE = f"docker.io/library/{RUNTIME.reference}"


def test_a_rollout_and_scaling_cut_no_answer(smollm2: str, client: Client, kubectl: Kubectl, namespace: str) -> None:
    """Another image, then one replica, three, one: there is always a pod that answers, so every chat is."""
    load = _load(client, smollm2, seconds=120)
    wait_for(lambda: _answered(client, load) >= 16, 120, "first answers")
    _patch(kubectl, namespace, f'{{"spec": {{"image": "{SAME_IMAGE}"}}}}')
    resource.wait_ready(kubectl, "smollm2", 120, namespace)
    serving = [pod for pod in _pods(kubectl, namespace) if "deletionTimestamp" not in pod["metadata"]]
    assert {pod["spec"]["containers"][0]["image"] for pod in serving} == {SAME_IMAGE}
    kubectl("scale", "mdep", "smollm2", "-n", namespace, "--replicas=3")
    seen = resource.wait_ready(kubectl, "smollm2", 180, namespace)
    assert seen["status"]["ready"] == "3/3"
    kubectl("scale", "mdep", "smollm2", "-n", namespace, "--replicas=1")
    _wait_for_pods(kubectl, namespace, 1)
    chats = client.finish(load)
    print(_summary(chats))
    assert not [chat.error for chat in chats if chat.error]
    assert resource.wait_ready(kubectl, "smollm2", 60, namespace)["status"]["ready"] == "1/1"


def test_a_polite_delete_and_suspend_leave_no_half_answers(smollm2: str, client: Client, kubectl: Kubectl, namespace: str) -> None:
    """With one replica somebody has to be turned away: before the first byte, never after it."""
    load = _load(client, smollm2, seconds=50)
    wait_for(lambda: _answered(client, load) >= 16, 120, "first answers")
    (old,) = _pods(kubectl, namespace)
    kubectl("delete", "pod", old["metadata"]["name"], "-n", namespace, "--wait=false")
    wait_for(lambda: old["metadata"]["name"] not in [pod["metadata"]["name"] for pod in _pods(kubectl, namespace)], 120, "its end")
    resource.wait_ready(kubectl, "smollm2", 120, namespace)
    _patch(kubectl, namespace, '{"spec": {"suspend": true}}')
    _wait_for_pods(kubectl, namespace, 0)
    chats = client.finish(load)
    print(_summary(chats))
    refused = [chat for chat in chats if chat.error]
    assert refused, "nobody came while no pod was there: this proves nothing"
    assert not [chat for chat in refused if chat.answer], "half an answer"
    # A packet sent to a pod in the moment of its end may get no answer at all: Kubernetes takes the address away without a word.
    turned_away = ("ConnectionRefused", "503", "Connection timed out", "No route to host")
    assert all(any(word in (chat.error or "") for word in turned_away) for chat in refused), _summary(chats)


def test_a_model_scales_with_its_load(apply: Callable[..., None], model: str, client: Client, kubectl: Kubectl, namespace: str) -> None:
    """From one replica to three and back, without Prometheus and without a cut answer."""
    bounds = {"minReplicas": 1, "maxReplicas": 3, "targetRequestsPerReplica": 4, "scaleDownDelaySeconds": 15}
    apply("smollm2", model=model, autoscaling=bounds, rollout={"drainSeconds": 30})
    assert resource.wait_ready(kubectl, "smollm2", 180, namespace)["status"]["ready"] == "1/1"
    url = f"http://smollm2.{namespace}.svc.cluster.local/v1"
    begun = time.monotonic()
    load = _load(client, url, seconds=60)
    asked = resource.wait_until(kubectl, "smollm2", "three replicas asked for", _wants(3), 60, namespace)
    print(f"three replicas asked for {time.monotonic() - begun:.1f} s after the load's pod was made")
    assert asked["spec"].get("replicas", 1) == 1, "the spec is the person's"
    resource.wait_until(kubectl, "smollm2", "three ready", lambda found: found["status"].get("ready") == "3/3", 180, namespace)
    chats = client.finish(load)
    print(_summary(chats))
    resource.wait_until(kubectl, "smollm2", "one replica asked for", _wants(1), 60, namespace)
    _wait_for_pods(kubectl, namespace, 1)
    assert not [chat.error for chat in chats if chat.error]
    assert resource.wait_ready(kubectl, "smollm2", 60, namespace)["status"]["ready"] == "1/1"


def _load(client: Client, url: str, seconds: float) -> str:
    return client.start(url, "smollm2", prompts=PROMPTS, max_tokens=32, seconds=seconds)


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
