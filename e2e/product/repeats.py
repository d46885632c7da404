"""Resources that fail the same way again and again, in a namespace of their own, with the hub that they ask."""

from __future__ import annotations

import json
import socket
import socketserver
import struct
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import network
from cluster.kubectl import Kubectl
from hub.server import running_hub
from product.restricted import RESTRICTED

# Name of a resource and what it fails with at each restart: last words in which all moves, a hub that numbers its answers, none at all,
# a download that is never over in time, and one for which there is no room.
REASONS = {
    "crashing": "CrashLoop",
    "notfound": "ModelNotFound",
    "unreachable": "HubUnreachable",
    "slow": "StartupTimeout",
    "full": "DiskFull",
}
# Of these, the ones whose process says each time anew how far its download is.
DOWNLOADING = ("slow", "full")
# And what no process ever ran for: a registry that hangs up on each pull, a node's memory, a folder that is not there.
UNSTARTED = {"pulling": "ImagePullError", "homeless": "InsufficientMemory", "mountless": "MountFailed"}
# And what not even a pod is made for: a Service of somebody else's has its name.
TAKEN = ("taken", "NameConflict")
# And one whose pod is replaced and never restarted, because its node will not have it: no scheduler but a person gives it that node.
UNWANTED = ("unwanted", "PodEvicted")

CLAIM = "nofolder"
# Of the claim that the operator makes for a resource's cache.
CACHE = "full-cache"
SIZE = {"storage": "1Gi"}
# Bytes, and bytes per second: some of it comes in each start and all of it in none. The disk takes four seconds of it.
WEIGHTS, PACE = 160 << 20, 5_000_000
DISK = 20 << 20

# A program of somebody's own, as the runtime sees it: it ends in the middle of the start, and what it logged last are its last words.
CODE = """
import datetime, os, sys, threading, uuid

words = f"{datetime.datetime.now()} own[{os.getpid()}.{threading.get_native_id()}]: no table in {object()} for request {uuid.uuid4()}"
print(words, file=sys.stderr, flush=True)
os._exit(3)
"""


@contextmanager
def failing(kubectl: Kubectl, folder: Path) -> Iterator[str]:
    """The namespace; hubs, registry and disk live as long as the with block. `folder` is for what they hold."""
    name = f"e2e-{uuid.uuid4().hex[:6]}"
    with running_hub(network.ADDRESS) as hub, running_hub(network.ADDRESS) as paced, _hanging_up() as registry, _disk(folder) as disk:
        hub.repositories["jitney-tests/crashing"] = _model(folder, "crashing")
        paced.repositories["jitney-tests/long"] = _long(folder, "long")
        paced.pace = PACE
        kubectl.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
        kubectl.apply(*_claim_on_nothing(name), _volume(name, CACHE, "ReadWriteOnce", str(disk)), _service(name, TAKEN[0]))
        try:
            # A pod that comes before the claim is bound fails with that first.
            kubectl("wait", "--for=jsonpath={.status.phase}=Bound", f"pvc/{CLAIM}", "-n", name, "--timeout=60s")
            kubectl.apply(*_resources(name, hub.url, paced.url, registry))
            yield name
        finally:
            kubectl("delete", "namespace", name, "--wait=false")
            kubectl("delete", "pv", f"{CLAIM}-{name}", f"{CACHE}-{name}", "--wait=false")


def _resources(namespace: str, hub: str, paced: str, registry: str) -> list[dict[str, Any]]:
    huge = {"requests": {"memory": "900Gi"}, "limits": {"memory": "900Gi"}}
    return [
        _resource(namespace, "crashing", "hf://jitney-tests/crashing", hub, args=["--trust-remote-code"]),
        _resource(namespace, "notfound", "hf://jitney-tests/none", hub),
        # Nobody listens there.
        _resource(namespace, "unreachable", "hf://jitney-tests/none", f"http://{network.ADDRESS}:9"),
        _resource(namespace, "slow", "hf://jitney-tests/long", paced, startupTimeoutSeconds=20),
        _resource(namespace, "full", "hf://jitney-tests/long", paced, cache={"type": "PersistentVolumeClaim", "size": "1Gi"}),
        _unwanted(namespace, hub),
        _resource(namespace, TAKEN[0], "file:///nowhere", hub, replicas=0),
        _resource(namespace, "pulling", "file:///nowhere", hub, image=f"{registry}/none/such:1"),
        _resource(namespace, "homeless", "file:///nowhere", hub, resources=huge),
        _resource(namespace, "mountless", f"pvc://{CLAIM}/model", hub),
    ]


@contextmanager
def _hanging_up() -> Iterator[str]:
    """A registry's address, where each connection is taken and reset: the node says so with another port of its own each time."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(1)
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    with socketserver.ThreadingTCPServer((network.ADDRESS, 0), Handler) as server:
        server.daemon_threads = True
        # Closed without the farewell that would make it an orderly end.
        server.shutdown_request = server.close_request  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"{network.ADDRESS}:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    """So small that no download fits it."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0777", "tmpfs", str(disk)], check=True)
    yield disk
    # Its pod may hold it for a moment longer.
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _claim_on_nothing(namespace: str) -> list[dict[str, Any]]:
    """On a folder that the node does not have."""
    volume = _volume(namespace, CLAIM, "ReadOnlyMany", "/nowhere/at/all")
    shared = {"storageClassName": "", "accessModes": volume["spec"]["accessModes"]}
    claim = {"volumeName": volume["metadata"]["name"], "resources": {"requests": SIZE}, **shared}
    metadata = {"name": CLAIM, "namespace": namespace}
    return [volume, {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim}]


def _volume(namespace: str, claim: str, mode: str, path: str) -> dict[str, Any]:
    """A folder of the node, for this claim only."""
    source = {"hostPath": {"path": path, "type": "Directory"}, "claimRef": {"namespace": namespace, "name": claim}}
    spec = {"capacity": SIZE, "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "", "accessModes": [mode], **source}
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"{claim}-{namespace}"}, "spec": spec}


def _service(namespace: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": {"ports": [{"port": 80}]}}


def _resource(namespace: str, name: str, model: str, url: str, **spec: Any) -> dict[str, Any]:
    # Its pods take what nobody else needs: other tests run meanwhile.
    small = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "2Gi"}}
    wish = {"model": model, "env": [{"name": "HF_ENDPOINT", "value": url}], "resources": small, **spec}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "metadata": metadata, "spec": wish}


def _unwanted(namespace: str, hub: str) -> dict[str, Any]:
    nowhere = {"nodeSelector": {"jitney.dev/no-such-node": "yes"}}
    # Its first pod may wait for its test for long, and no rollout is to be out of time by then.
    patient = {"resourceProfile": "by-hand", "startupTimeoutSeconds": 7200}
    return _resource(namespace, UNWANTED[0], "file:///nowhere", hub, scheduling=nowhere, **patient)


def give_node(kubectl: Kubectl, pod: dict[str, Any]) -> None:
    """As a scheduler does that knows less than the node."""
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    target = {"apiVersion": "v1", "kind": "Node", "name": kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")}
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
    kubectl("create", f"--raw=/api/v1/namespaces/{namespace}/pods/{name}/binding", "-f", "-", input=json.dumps(binding))


def _model(folder: Path, name: str) -> Path:
    """What is looked for before its code is run, and nothing else."""
    model = folder / name
    model.mkdir()
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}, "architectures": ["OwnForCausalLM"]}
    (model / "config.json").write_text(json.dumps(config))
    (model / "own.py").write_text(CODE)
    (model / "model.safetensors").write_bytes(b"none")
    return model


def _long(folder: Path, name: str) -> Path:
    """Its weights are a hole, so they take no disk here; nobody comes to read them."""
    model = _model(folder, name)
    with (model / "model.safetensors").open("wb") as file:
        file.truncate(WEIGHTS)
    return model
