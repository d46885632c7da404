"""A namespace of the test API server, and what tests do in it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.control_plane import ControlPlane

CRD = Path(__file__).parents[2] / "crds" / "serving.jitney.dev_modeldeployments.yaml"


def define(plane: ControlPlane, definition: str | None = None) -> None:
    """Make the resource's definition (or another), and wait until the server serves it."""
    text = definition or CRD.read_text()
    plane.kubectl("apply", "--server-side", "-f", "-", input=text)
    end = time.monotonic() + 30
    # Not `kubectl wait`, which takes a definition without any condition, as it is in its first moment, for an error.
    while not _is_established(plane, yaml.safe_load(text)["metadata"]["name"]):
        assert time.monotonic() < end, "the definition was not established within 30 s"
        time.sleep(0.1)


def _is_established(plane: ControlPlane, name: str) -> bool:
    status = json.loads(plane.kubectl("get", "customresourcedefinition", name, "-o", "json")).get("status", {})
    return any(entry["type"] == "Established" and entry["status"] == "True" for entry in status.get("conditions") or ())


@dataclass(frozen=True)
class Namespace:
    """A namespace and the administrator's kubectl in it."""

    plane: ControlPlane
    name: str

    def kubectl(self, *arguments: str, input: str | None = None) -> str:
        return self.plane.kubectl("--namespace", self.name, *arguments, input=input)

    def create(self, name: str = "chat", **spec: Any) -> str:
        """Create a ModelDeployment; RuntimeError with the API server's sentence when it is refused."""
        body = {"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "metadata": {"name": name}, "spec": spec}
        return self.kubectl("create", "-f", "-", input=json.dumps(body))

    def get(self, name: str = "chat") -> dict[str, Any]:
        return dict(json.loads(self.kubectl("get", "modeldeployment", name, "-o", "json")))

    def reason(self, name: str = "chat") -> str:
        """The one word of its status."""
        return str(self.get(name)["status"]["reason"])

    def condition(self, kind: str, name: str = "chat") -> dict[str, Any]:
        """Empty when it is not there."""
        return next((entry for entry in self.get(name)["status"]["conditions"] if entry["type"] == kind), {})

    def update(self, name: str = "chat", **spec: Any) -> None:
        """Change fields of a ModelDeployment's spec; None removes one."""
        self.kubectl("patch", "modeldeployment", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def versions(self) -> dict[str, str]:
        """The resourceVersion of every resource and child: the same ones mean that nothing was written."""
        found = json.loads(self.kubectl("get", "mdep,deployments,services", "-o", "json"))["items"]
        return {f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"] for item in found}
