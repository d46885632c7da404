"""A pod inside the cluster that chats through a Service's DNS name; its lines come back as Chat."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.images import RUNTIME
from cluster.kubectl import Kubectl, wait_for
from cluster.target import Cluster

SCRIPT = Path(__file__).with_name("chats.py")


@dataclass(frozen=True)
class Chat:
    """One answered (or failed) chat. Seconds since it was sent; `started` in Unix time."""

    number: int
    prompt: str
    answer: str
    started: float
    seconds: float
    error: str | None = None
    first_token: float | None = None
    finish_reason: str | None = None
    tokens: int = 0

    @property
    def ended(self) -> float:
        return self.started + self.seconds


class Client:
    """Starts one pod per call of start(); the script travels in a ConfigMap."""

    def __init__(self, cluster: Cluster, kubectl: Kubectl, namespace: str = "default") -> None:
        self.kubectl = kubectl
        self.namespace = namespace
        self._image = cluster.reference(RUNTIME)

    def chat(self, url: str, model: str, *, seconds: float = 300, **plan: Any) -> list[Chat]:
        """All the chats of `plan` (see chats.py), in the order of their numbers."""
        return self.finish(self.start(url, model, **plan), seconds)

    def start(self, url: str, model: str, **plan: Any) -> str:
        """The name of a pod that has begun."""
        name = f"chats-{uuid.uuid4().hex[:6]}"
        metadata = {"name": name, "namespace": self.namespace}
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"chats.py": SCRIPT.read_text()}}
        command = ["python", "/chats/chats.py", url, model, json.dumps(plan)]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _pod(self._image, command, name)}
        self.kubectl.apply(config, pod)
        return name

    def lines(self, name: str) -> list[Chat]:
        """What has been answered so far."""
        text = self.kubectl("logs", name, "-n", self.namespace)
        return sorted((Chat(**json.loads(line)) for line in text.splitlines()), key=lambda chat: chat.number)

    def enough(self, name: str) -> None:
        """Ends a load: what is under way is finished, and nothing more begins."""
        self.kubectl("exec", name, "-n", self.namespace, "--", "python", "-c", "import os; os.kill(1, 15)")

    def finish(self, name: str, seconds: float = 300) -> list[Chat]:
        """Wait for the pod's end and remove it."""
        phase = wait_for(lambda: self._end(name), seconds, f"end of the client pod {name}")
        if phase != "Succeeded":
            raise RuntimeError(f"the client pod {name} failed:\n{self.kubectl('logs', name, '-n', self.namespace)}")
        chats = self.lines(name)
        self.kubectl("delete", f"pod/{name}", f"configmap/{name}", "-n", self.namespace, "--now", "--wait=false")
        return chats

    def _end(self, name: str) -> str | None:
        phase = (self.kubectl.get("pod", name, self.namespace) or {})["status"].get("phase")
        return phase if phase in ("Succeeded", "Failed") else None


def _pod(image: str, command: Sequence[str], config: str) -> dict[str, Any]:
    locked = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "chats",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(command),
        "securityContext": locked,
        "volumeMounts": [{"name": "script", "mountPath": "/chats"}],
    }
    return {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "script", "configMap": {"name": config}}],
    }
