"""Chats through the Service: they share a batch, each answer is what it would be alone, and trouble touches only what it must."""

from __future__ import annotations

import time

import pytest
from product import metrics, resource
from product.chats import PROMPTS
from product.client import Chat, Client
from product.rollouts import Rollout

from cluster.kubectl import Kubectl, wait_for

POD = "serving.jitney.dev/model-deployment=smollm2"


def test_sixteen_chats_share_a_batch(apply, model: str, client: Client, kubectl: Kubectl, namespace: str) -> None:
    apply("smollm2", model=model, maxNumSeqs=16, args=["--dtype", "float32"])
    resource.wait_ready(kubectl, "smollm2", 180, namespace)
    url = f"http://smollm2.{namespace}.svc.cluster.local/v1"
    alone = client.chat(url, "smollm2", together=False, max_tokens=32)
    before = metrics.counters(kubectl, namespace)
    together = client.chat(url, "smollm2", max_tokens=32)
    steps, tokens = (after - earlier for after, earlier in zip(metrics.counters(kubectl, namespace), before, strict=True))
    spent = f"{_seconds(together):.1f} s together, {_seconds(alone):.1f} s one by one"
    print(f"\n{tokens:.0f} tokens in {steps:.0f} model steps; {spent}")
    assert not [chat.error for chat in alone + together if chat.error]
    assert tokens == sum(chat.tokens for chat in together)
    assert steps < tokens / 4
    for one, other in zip(alone, together, strict=True):
        assert other.answer == one.answer, f"chat {one.number} was answered differently in company"


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_quantized_model_answers(quantization: str, apply, model: str, client: Client, kubectl: Kubectl, namespace: str) -> None:
    """From the resource down to the kernels: what the pod says of its products, and sixteen whole answers."""
    apply("smollm2", model=model, quantization=quantization, maxNumSeqs=16)
    resource.wait_ready(kubectl, "smollm2", 180, namespace)
    (pod,) = kubectl.list("pods", namespace, "-l", POD)
    log = kubectl("logs", pod["metadata"]["name"], "-n", namespace)
    (products,) = [line for line in log.splitlines() if "linear layers:" in line]
    print(f"\n{quantization}: {products.rpartition('linear layers: ')[2]}")
    assert f"in {quantization}" in products
    chats = client.chat(f"http://smollm2.{namespace}.svc.cluster.local/v1", "smollm2", max_tokens=24)
    print(chats[0].answer)
    assert not [chat.error for chat in chats if chat.error]
    assert all(chat.answer for chat in chats)


def test_a_pod_killed_in_mid_answer_is_replaced(smollm2: str, client: Client, kubectl: Kubectl, namespace: str) -> None:
    pod = kubectl.list("pods", namespace, "-l", POD)[0]["metadata"]["name"]
    chats = client.start(smollm2, "smollm2", max_tokens=400)
    wait_for(lambda: metrics.running(kubectl, namespace) >= 1, 60, "running chat")
    killed = time.monotonic()
    kubectl("delete", "pod", pod, "-n", namespace, "--grace-period=0", "--force")
    broken = client.finish(chats)
    assert any(chat.error for chat in broken), "the pod died and nobody noticed"
    assert all(chat.error or chat.finish_reason for chat in broken), "a client was left without an end"
    resource.wait_until(kubectl, "smollm2", "another Ready pod", lambda seen: _ready_elsewhere(kubectl, namespace, pod), 120, namespace)
    resource.wait_ready(kubectl, "smollm2", 60, namespace)
    print(f"\nReady again {time.monotonic() - killed:.1f} s after the kill")
    assert not client.chat(smollm2, "smollm2", prompts=PROMPTS[:2], max_tokens=8)[0].error


def test_max_num_seqs_edited_under_load(rollout: Rollout, client: Client, apply, model: str, kubectl: Kubectl, namespace: str) -> None:
    """The old pod drains by the time that it was made with, long enough here for its slowest answer."""
    apply("smollm2", model=model, maxNumSeqs=16, rollout={"drainSeconds": 240})
    resource.wait_ready(kubectl, "smollm2", 180, namespace)
    before = kubectl.list("pods", namespace, "-l", POD)[0]["metadata"]["name"]
    url = f"http://smollm2.{namespace}.svc.cluster.local/v1"
    chats = client.start(url, "smollm2", max_tokens=200)
    wait_for(lambda: metrics.running(kubectl, namespace) >= 1, 60, "running chat")
    apply("smollm2", model=model, maxNumSeqs=4, rollout={"drainSeconds": 240})
    answered = client.finish(chats)
    seen = resource.wait_ready(kubectl, "smollm2", 180, namespace)
    wait_for(lambda: before not in _pods(kubectl, namespace), 300, "end of the old pod")
    rollout("slow answers outlive a rollout", answered)
    assert not [chat.error for chat in answered if chat.error], "the rollout cut an answer"
    assert seen["status"]["observedGeneration"] == seen["metadata"]["generation"]
    pod = kubectl.list("pods", namespace, "-l", POD)[0]
    arguments = pod["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--max-num-seqs") + 1] == "4"
    assert not client.chat(url, "smollm2", prompts=PROMPTS[:6], max_tokens=8)[0].error


def _pods(kubectl: Kubectl, namespace: str) -> list[str]:
    return [pod["metadata"]["name"] for pod in kubectl.list("pods", namespace, "-l", POD)]


def _ready_elsewhere(kubectl: Kubectl, namespace: str, old: str) -> bool:
    pods = [pod for pod in kubectl.list("pods", namespace, "-l", POD) if pod["metadata"]["name"] != old]
    return any(status.get("ready") for pod in pods for status in pod["status"].get("containerStatuses") or [])


def _seconds(chats: list[Chat]) -> float:
    return max(chat.ended for chat in chats) - min(chat.started for chat in chats)
