"""Fields that point at something else, with the thing there: Secrets, somebody's claim, an entry of the administrator's catalogue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from product import resource
from product.resource import condition

from cluster import network
from cluster.kubectl import Kubectl, wait_for
from cluster.target import Cluster
from hub.private import guarded
from hub.server import COMMIT, Hub, running_hub
from support.models import save_tiny

# As e2e/values.yaml has it.
NAME, MODEL = "our-chat", "jitney-tests/tiny-chat"
WEIGHTS = "model.safetensors"
TOKEN, KEY = "hf_of_the_test", "key-of-the-test"
SECRET, CLAIM = "words", "shelf"


@pytest.fixture
def hub(cluster: Cluster, tmp_path: Path) -> Iterator[Hub]:
    """One model, and an `url` that wants the token."""
    if cluster.kind != "local":
        pytest.skip("the pods of another cluster do not reach a hub on this machine")
    with running_hub(network.ADDRESS) as hub:
        hub.repositories[MODEL] = save_tiny(tmp_path / "model", vocab_size=49152)
        with guarded(hub, TOKEN) as hub.url:
            yield hub


@pytest.fixture
def secret(kubectl: Kubectl, namespace: str) -> str:
    metadata = {"name": SECRET, "namespace": namespace}
    kubectl.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"hub": TOKEN, "chats": KEY}})
    return SECRET


@pytest.fixture
def claim(kubectl: Kubectl, namespace: str, tmp_path: Path) -> Iterator[str]:
    """Somebody's own, with a volume on this machine."""
    folder = tmp_path / "volume"
    folder.mkdir()
    # Group ownership is not set on folders of the node, and pods run as somebody else.
    folder.chmod(0o777)
    name, size = f"{CLAIM}-{namespace}", {"storage": "1Gi"}
    shared = {"storageClassName": "", "accessModes": ["ReadWriteOnce"]}
    source = {"hostPath": {"path": str(folder)}, "claimRef": {"namespace": namespace, "name": CLAIM}}
    volume = {"capacity": size, "persistentVolumeReclaimPolicy": "Retain", **source, **shared}
    wish = {"volumeName": name, "resources": {"requests": size}, **shared}
    kubectl.apply(
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": volume},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM, "namespace": namespace}, "spec": wish},
    )
    yield CLAIM
    kubectl("delete", "pv", name, "--wait=false")


def test_what_a_resource_names_is_used(
    hub: Hub, secret: str, claim: str, apply: Callable[..., None], kubectl: Kubectl, namespace: str
) -> None:
    """One model by its short name, from a hub that wants the token, kept on the claim, behind a key."""
    apply(
        "own",
        model=NAME,
        hfTokenSecretRef={"name": secret, "key": "hub"},
        apiKeySecretRef={"name": secret, "key": "chats"},
        cache={"type": "PersistentVolumeClaim", "claimName": claim},
        env=[{"name": "HF_ENDPOINT", "value": hub.url}],
        rollout={"drainSeconds": 1},
    )
    seen = resource.wait_ready(kubectl, "own", 180, namespace)

    # The administrator's entry was found, measured and pinned.
    assert (condition(seen, "Accepted") or {})["reason"] == "Fits"
    wanted = {"repository": MODEL, "revision": COMMIT, "size": "0.006", "maxModelLen": 256, "profile": "cpu"}
    resolved = seen["status"]["resolved"]
    assert {name: resolved[name] for name in wanted} == wanted

    assert httpx.get(f"{hub.url}/api/models/{MODEL}").status_code == 401, "the hub does not ask for the token"
    assert hub.sent.count(WEIGHTS) == 1

    service = kubectl.get("service", "own", namespace) or {}
    chats, key = f"http://{service['spec']['clusterIP']}/v1/chat/completions", {"Authorization": f"Bearer {KEY}"}
    assert [_chat(chats, header) for header in ({}, {"Authorization": "Bearer another"}, key)] == [401, 401, 200]

    kubectl("delete", "pods", "--all", "-n", namespace)
    resource.wait_until(kubectl, "own", "another Ready pod", lambda seen: seen["status"].get("ready") == "1/1", 120, namespace)
    assert hub.sent.count(WEIGHTS) == 1, "the claim has it already"
    assert _chat(chats, key) == 200

    kubectl("delete", "mdep", "own", "-n", namespace, "--cascade=foreground", "--timeout=120s")
    assert kubectl.get("pvc", claim, namespace), "it is not ours to delete"


def _chat(url: str, header: dict[str, str]) -> int:
    """The status of its answer."""
    body = {"model": "own", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}

    def status() -> int | None:
        try:
            return httpx.post(url, json=body, headers=header, timeout=60).status_code
        except httpx.ConnectError:
            # The node has not heard of the pod yet.
            return None

    return wait_for(status, 30, "way to the pod")
