"""Resources that fail the same way again and again, in a namespace of their own, with the hub that they ask."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster import network
from cluster.kubectl import Kubectl
from hub.server import running_hub

# Name of a resource and what it fails with: last words in which everything moves, a hub that numbers its answers, and none at all.
REASONS = {"crashing": "CrashLoop", "notfound": "ModelNotFound", "unreachable": "HubUnreachable"}

# A program of somebody's own, as the runtime sees it: it ends in the middle of the start, and what it logged last are its last words.
CODE = """
import datetime, os, sys, threading, uuid

words = f"{datetime.datetime.now()} own[{os.getpid()}.{threading.get_native_id()}]: no table in {object()} for request {uuid.uuid4()}"
print(words, file=sys.stderr, flush=True)
os._exit(3)
"""


@contextmanager
def failing(kubectl: Kubectl, folder: Path) -> Iterator[str]:
    """The namespace; the hub lives as long as the with block. `folder` is for the model that ends its process."""
    name = f"e2e-{uuid.uuid4().hex[:6]}"
    with running_hub(network.ADDRESS) as hub:
        hub.repositories["jitney-tests/crashing"] = _model(folder)
        kubectl.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
            _resource(name, "crashing", "crashing", hub.url, args=["--trust-remote-code"]),
            _resource(name, "notfound", "none", hub.url),
            # Nobody listens there.
            _resource(name, "unreachable", "none", f"http://{network.ADDRESS}:9"),
        )
        try:
            yield name
        finally:
            kubectl("delete", "namespace", name, "--wait=false")


def _resource(namespace: str, name: str, repository: str, url: str, **spec: Any) -> dict[str, Any]:
    # Its pods take what nobody else needs: other tests run meanwhile.
    small = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "2Gi"}}
    wish = {"model": f"hf://jitney-tests/{repository}", "env": [{"name": "HF_ENDPOINT", "value": url}], "resources": small, **spec}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "metadata": metadata, "spec": wish}


def _model(folder: Path) -> Path:
    """What is looked for before its code is run, and nothing else."""
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}, "architectures": ["OwnForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE)
    (folder / "model.safetensors").write_bytes(b"none")
    return folder
