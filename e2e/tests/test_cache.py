"""A cache on a claim that the operator makes: what one pod downloaded, the next one finds. The hub is on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from product import resource
from product.resource import condition

from cluster import network
from cluster.kubectl import Kubectl, wait_for
from cluster.target import Cluster
from hub.server import Hub, running_hub
from support.models import save_tiny

MODEL = "jitney-tests/tiny"


@pytest.fixture
def hub(cluster: Cluster, tmp_path: Path) -> Iterator[Hub]:
    if cluster.kind != "local":
        pytest.skip("the pods of another cluster do not reach a hub on this machine")
    with running_hub(network.ADDRESS) as found:
        found.repositories[MODEL] = save_tiny(tmp_path / "model", vocab_size=49152)
        yield found


@pytest.fixture
def volume(kubectl: Kubectl, namespace: str, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Not made yet: one for the first claim in the namespace that names no storage class."""
    folder = tmp_path / "volume"
    folder.mkdir()
    # Group ownership is not set on folders of the node, and pods run as somebody else.
    folder.chmod(0o777)
    name = f"cache-{namespace}"
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": str(folder)}}
    claim = {"claimRef": {"namespace": namespace, "name": "cached-cache"}, "persistentVolumeReclaimPolicy": "Retain"}
    yield {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec | claim}
    kubectl("delete", "pv", name, "--ignore-not-found", "--wait=false")


def test_downloads_outlive_a_pod(hub: Hub, volume: dict[str, Any], apply, kubectl: Kubectl, namespace: str) -> None:
    where = [{"name": "HF_ENDPOINT", "value": hub.url}]
    cache = {"type": "PersistentVolumeClaim", "size": "1Gi"}
    apply("cached", model=f"hf://{MODEL}", cache=cache, env=where, maxModelLen=128, rollout={"drainSeconds": 1})
    seen = resource.wait_until(kubectl, "cached", "Scheduled=False", lambda seen: _unscheduled(seen), 60, namespace)
    print(f"\nwithout a volume: {condition(seen, 'Scheduled')['message']}")
    kubectl.apply(volume)
    resource.wait_ready(kubectl, "cached", 180, namespace)
    assert hub.sent.count("model.safetensors") == 1
    (pod,) = kubectl.list("pods", namespace)
    kubectl("delete", "pod", pod["metadata"]["name"], "-n", namespace)
    wait_for(lambda: pod["metadata"]["name"] not in [other["metadata"]["name"] for other in kubectl.list("pods", namespace)], 60, "end")
    resource.wait_until(kubectl, "cached", "another Ready pod", lambda seen: seen["status"].get("ready") == "1/1", 120, namespace)
    assert hub.sent.count("model.safetensors") == 1
    kubectl("delete", "mdep", "cached", "-n", namespace, "--cascade=foreground", "--timeout=120s")
    assert not kubectl.list("pvc", namespace)


def _unscheduled(seen: dict[str, Any]) -> bool:
    return (condition(seen, "Scheduled") or {}).get("status") == "False"
