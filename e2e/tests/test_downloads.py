"""Models from a hub, which is on this machine: what goes wrong on the way is named, how far it is is told, and a cache outlives its pod."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from product import resource
from product.eye import Eye
from product.resource import condition
from product.situations import ENDED, UNPLACED, Situation, says

from cluster import network
from cluster.kubectl import Kubectl, wait_for
from cluster.target import Cluster
from hub.server import Hub, running_hub
from support.models import save_slow, save_tiny

MODEL = "jitney-tests/tiny"
# As e2e/values.yaml has it.
ALLOWED = Path("/var/tmp/jitney-e2e")
# Bytes per second: the slow model's 290 MB take four times as long as the operator lets pass between two lines of progress.
PACE = 15_000_000


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
    "notfound": ("model not found on the hub", "ModelNotFound", 10, "jitney-tests/none"),
    "gated": ("hub says unauthorized", "Unauthorized", 11, "jitney-tests/gated"),
    "unreachable": ("hub unreachable", "HubUnreachable", 12, MODEL),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_download_that_cannot_be(name: str, hub: Hub, apply, situation: Situation) -> None:
    what, reason, code, model = FAILURES[name]
    hub.refused["jitney-tests/gated"] = (401, "GatedRepo")
    # Nobody listens on the second port.
    apply(name, model=f"hf://{model}", env=_endpoint(hub.url if name != "unreachable" else f"http://{network.ADDRESS}:9"))
    seen = situation(what, name, ENDED, "ModelLoaded", reason)
    assert seen["status"]["lastFailure"]["exitCode"] == code
    assert seen["status"]["lastFailure"]["container"] == "runtime"


# As the library fails where the memory of a real GPU runs out: the rest of the way is the runtime's own.
CODE = """
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

class OwnConfig(Qwen2Config):
    model_type = "own"

class OwnForCausalLM(Qwen2ForCausalLM):
    config_class = OwnConfig
    def __init__(self, config):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB.")
"""


def test_a_gpu_that_is_too_small(hub: Hub, apply, situation: Situation) -> None:
    """A model whose own code raises CUDA's error, in a pod that ends with the runtime's exit code and sentence."""
    folder = hub.repositories[MODEL]
    (folder / "own.py").write_text(CODE)
    own = {"auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}, "model_type": "own"}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | own | {"architectures": ["OwnForCausalLM"]}))
    apply("gpu", model=f"hf://{MODEL}", env=_endpoint(hub.url), args=["--trust-remote-code"], maxModelLen=1024)
    seen = situation("CUDA out of memory", "gpu", ENDED, "ModelLoaded", "GPUOutOfMemory")
    assert seen["status"]["lastFailure"]["exitCode"] == 15
    message = condition(seen, "ModelLoaded")["message"]
    assert "Tried to allocate 2.00 GiB" in message
    assert "Try maxNumSeqs 8 (now 16) or maxModelLen 512 (now 1024)." in message


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "volume"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0777", "tmpfs", str(folder)], check=True)
    yield folder
    # A pod that ends may hold it for a moment.
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full(
    hub: Hub, small_disk: Path, volume: dict[str, Any], apply, situation: Situation, kubectl: Kubectl, namespace: str
) -> None:
    cache = {"type": "PersistentVolumeClaim", "size": "1Gi"}
    kubectl.apply(volume)
    apply("cached", model=f"hf://{MODEL}", cache=cache, env=_endpoint(hub.url))
    seen = situation("disk full", "cached", ENDED, "ModelLoaded", "DiskFull")
    assert seen["status"]["lastFailure"]["exitCode"] == 13


def test_a_start_that_takes_too_long(hub: Hub, apply, situation: Situation) -> None:
    hub.held.add("model.safetensors")
    apply("slow", model=f"hf://{MODEL}", env=_endpoint(hub.url), startupTimeoutSeconds=16)
    seen = situation("download under way", "slow", says("Downloading"), "ModelLoaded", "Downloading")
    assert seen["status"]["progress"].startswith("downloading ")
    seen = situation("start takes too long", "slow", ENDED, "ModelLoaded", "StartupTimeout")
    assert "Raise spec.startupTimeoutSeconds" in condition(seen, "ModelLoaded")["message"]


def test_how_far_a_start_is(hub: Hub, apply, situation: Situation, eye: Eye, kubectl: Kubectl, namespace: str, tmp_path: Path) -> None:
    """Bytes of a download and tensors of a load: told again while they move, and never backwards."""
    hub.repositories[MODEL] = save_slow(tmp_path / "slow")
    hub.pace = PACE
    slow = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "300m", "memory": "4Gi"}}
    apply("moving", model=f"hf://{MODEL}", env=_endpoint(hub.url), resources=slow, rollout={"drainSeconds": 1})
    # Of the weights: the few megabytes beside them are told first, as if they were all.
    situation.moved("download moving", "moving", r"downloading (\d+)/\d{3} MB")
    situation.moved("load moving", "moving", r"loading (\d+) %")
    resource.wait_ready(kubectl, "moving", 300, namespace)
    states = [found["status"] for found in eye.seen("modeldeployments") if found["metadata"]["namespace"] == namespace]
    told = list(dict.fromkeys(status["progress"] for status in states if "progress" in status))
    print("", *told, sep="\n")
    for step in ("downloading", "loading"):
        amounts = [float(found[1]) for line in told if (found := re.match(rf"{step} ([\d.]+)", line))]
        assert amounts == sorted(amounts)


@pytest.fixture
def folder(kubectl: Kubectl, namespace: str) -> Iterator[Path]:
    """Of the node, below what the suite's values allow; the namespace takes pods that use one."""
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
    folder = ALLOWED / namespace
    yield folder
    shutil.rmtree(folder)
    if not any(ALLOWED.iterdir()):
        ALLOWED.rmdir()


def test_a_folder_of_the_node_as_a_cache(hub: Hub, folder: Path, apply, situation: Situation, kubectl: Kubectl, namespace: str) -> None:
    """Nobody makes the pods root: one that the kubelet made is given to them by a person, as the message says; then it outlives its pod."""
    cache = {"type": "HostPath", "path": str(folder)}
    apply("shelf", model=f"hf://{MODEL}", cache=cache, env=_endpoint(hub.url), maxModelLen=128, rollout={"drainSeconds": 1})
    seen = situation("cache not writable", "shelf", ENDED, "ModelLoaded", "CacheNotWritable")
    assert seen["status"]["lastFailure"]["exitCode"] == 18
    assert "user 65532 may not write to /cache/huggingface" in condition(seen, "ModelLoaded")["message"]
    assert "chown 65532:65532" in condition(seen, "ModelLoaded")["message"]
    os.chown(folder, 65532, 65532)
    resource.wait_ready(kubectl, "shelf", 180, namespace)
    assert hub.sent.count("model.safetensors") == 1
    kubectl("delete", "pods", "--all", "-n", namespace)
    resource.wait_until(kubectl, "shelf", "another Ready pod", lambda seen: seen["status"].get("ready") == "1/1", 120, namespace)
    assert hub.sent.count("model.safetensors") == 1


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


def test_downloads_outlive_a_pod(hub: Hub, volume: dict[str, Any], apply, situation: Situation, kubectl: Kubectl, namespace: str) -> None:
    cache = {"type": "PersistentVolumeClaim", "size": "1Gi"}
    apply("cached", model=f"hf://{MODEL}", cache=cache, env=_endpoint(hub.url), maxModelLen=128, rollout={"drainSeconds": 1})
    seen = situation("claim without a volume", "cached", UNPLACED, "Scheduled", "Unschedulable")
    assert "`kubectl describe pvc` says why" in condition(seen, "Scheduled")["message"]
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
