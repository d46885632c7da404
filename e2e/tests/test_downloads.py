"""Models from a hub, which is on this machine: what goes wrong on the way is named, how far it is is told, and a cache outlives its pod."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from product import resource, trouble
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


def _endpoint(url: str) -> list[dict[str, str]]:
    return [{"name": "HF_ENDPOINT", "value": url}]


FAILURES = {
    "notfound": ("ModelNotFound", 10, "jitney-tests/none"),
    "gated": ("Unauthorized", 11, "jitney-tests/gated"),
    "unreachable": ("HubUnreachable", 12, MODEL),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_download_that_cannot_be(name: str, hub: Hub, apply, kubectl: Kubectl, namespace: str) -> None:
    reason, code, model = FAILURES[name]
    hub.refused["jitney-tests/gated"] = (401, "GatedRepo")
    # Nobody listens on the second port.
    apply(name, model=f"hf://{model}", env=_endpoint(hub.url if name != "unreachable" else f"http://{network.ADDRESS}:9"))
    known = trouble.known(kubectl, namespace, name, lambda pod: trouble.terminated(pod) is not None)
    seen = trouble.reported(kubectl, namespace, name, "ModelLoaded", {reason}, known)
    assert seen["status"]["lastFailure"]["exitCode"] == code
    assert seen["status"]["lastFailure"]["container"] == "runtime"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "volume"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0777", "tmpfs", str(folder)], check=True)
    yield folder
    # A pod that ends may hold it for a moment.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full(hub: Hub, small_disk: Path, volume: dict[str, Any], apply, kubectl: Kubectl, namespace: str) -> None:
    cache = {"type": "PersistentVolumeClaim", "size": "1Gi"}
    kubectl.apply(volume)
    apply("cached", model=f"hf://{MODEL}", cache=cache, env=_endpoint(hub.url))
    known = trouble.known(kubectl, namespace, "cached", lambda pod: trouble.terminated(pod) is not None)
    seen = trouble.reported(kubectl, namespace, "cached", "ModelLoaded", {"DiskFull"}, known)
    assert seen["status"]["lastFailure"]["exitCode"] == 13


def test_a_start_that_takes_too_long(hub: Hub, apply, kubectl: Kubectl, namespace: str) -> None:
    hub.held.add("model.safetensors")
    apply("slow", model=f"hf://{MODEL}", env=_endpoint(hub.url), startupTimeoutSeconds=16)
    resource.wait_until(kubectl, "slow", "Downloading", lambda seen: seen["status"].get("reason") == "Downloading", 60, namespace)
    known = trouble.known(kubectl, namespace, "slow", lambda pod: trouble.terminated(pod) is not None)
    seen = trouble.reported(kubectl, namespace, "slow", "ModelLoaded", {"StartupTimeout"}, known)
    assert "Raise spec.startupTimeoutSeconds" in condition(seen, "ModelLoaded")["message"]


@pytest.fixture
def volume(kubectl: Kubectl, namespace: str, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Not made yet: one for the first claim in the namespace that names no storage class."""
    folder = tmp_path / "volume"
    folder.mkdir(exist_ok=True)
    # Group ownership is not set on folders of the node, and pods run as somebody else.
    folder.chmod(0o777)
    name = f"cache-{namespace}"
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": str(folder)}}
    claim = {"claimRef": {"namespace": namespace, "name": "cached-cache"}, "persistentVolumeReclaimPolicy": "Retain"}
    yield {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec | claim}
    kubectl("delete", "pv", name, "--ignore-not-found", "--wait=false")


def test_downloads_outlive_a_pod(hub: Hub, volume: dict[str, Any], apply, kubectl: Kubectl, namespace: str) -> None:
    cache = {"type": "PersistentVolumeClaim", "size": "1Gi"}
    apply("cached", model=f"hf://{MODEL}", cache=cache, env=_endpoint(hub.url), maxModelLen=128, rollout={"drainSeconds": 1})
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
