"""Two replicas behind a plain Service: one may leave at any time, and whoever chats does not notice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from product import model_claim, resource
from product.client import Client
from product.rollouts import Rollout
from product.situations import LABEL

from cluster.kubectl import CommandFailed, Kubectl, wait_for
from cluster.target import Cluster
from support.models import save_tiny


@pytest.fixture
def tiny(cluster: Cluster, kubectl: Kubectl, namespace: str, tmp_path: Path) -> str:
    """A model that is loaded in a moment, on a claim in the test's namespace."""
    folder = save_tiny(tmp_path / "claims" / "tiny", vocab_size=49152)
    for file in folder.iterdir():
        # save_pretrained writes the weights for their owner alone, and pods run as somebody else.
        file.chmod(0o644)
    return model_claim.provide(cluster, kubectl, folder, namespace)


def test_one_of_two_is_deleted_politely(
    tiny: str, apply: Callable[..., None], rollout: Rollout, client: Client, kubectl: Kubectl, namespace: str
) -> None:
    """Sixteen chats at a time, each on a connection of its own."""
    apply("pair", model=tiny, maxModelLen=256, replicas=2, rollout={"drainSeconds": 60})
    resource.wait_ready(kubectl, "pair", 180, namespace)
    first, second = kubectl.list("pods", namespace, "-l", f"{LABEL}=pair")
    load = client.start(f"http://pair.{namespace}.svc.cluster.local/v1", "pair", max_tokens=128, seconds=300)
    wait_for(lambda: _answered(client, load) >= 16, 120, "first answers")
    begun = time.time()
    kubectl("delete", "pod", first["metadata"]["name"], "-n", namespace, "--timeout=180s")
    resource.wait_ready(kubectl, "pair", 120, namespace)
    client.enough(load)
    chats = client.finish(load)
    rollout("one of two deleted politely", [chat for chat in chats if chat.ended >= begun])
    assert any(chat.started < begun < chat.ended for chat in chats), "none was under way"
    errors = sorted({chat.error for chat in chats if chat.error})
    assert not errors, "the other one was there for whoever came"
    names = [pod["metadata"]["name"] for pod in kubectl.list("pods", namespace, "-l", f"{LABEL}=pair")]
    assert (len(names), first["metadata"]["name"] in names, second["metadata"]["name"] in names) == (2, False, True)


def _answered(client: Client, load: str) -> int:
    try:
        return len(client.lines(load))
    except CommandFailed:
        # Its pod has not started yet.
        return 0
