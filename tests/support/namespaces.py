"""A namespace of the test API server, and what tests do in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cluster.control_plane import ControlPlane


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
