"""An image registry beside a local cluster, which asks for a name and a password: where pods pull from, and are refused.

A process of this machine, the CNCF's distribution, started when somebody needs it.
"""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cluster import ports
from cluster.binaries import program
from cluster.control_plane import ControlPlane
from cluster.images import Builder
from cluster.processes import Running

NAME = "registry"
# containerd speaks plain HTTP with a registry on this address, and needs no word of it in its configuration.
ADDRESS = "127.0.0.1"
START_SECONDS = 30


class Registry:
    """Runs in a with block, empty at first; the cluster's end is its end too, should nobody leave the block."""

    def __init__(self, plane: ControlPlane) -> None:
        self._processes = plane.processes
        self._folder = plane.folder / NAME
        self._accounts = self._folder / "accounts.json"
        self.host = ""

    def __enter__(self) -> Self:
        # One that a killed run left: another port, another password.
        self.stop()
        self._folder.mkdir()
        (port,) = ports.free(1)
        self.host = f"{ADDRESS}:{port}"
        # Tracing would look for a collector.
        process = self._processes.start(NAME, [program(NAME), "serve", self._config()], {"OTEL_TRACES_EXPORTER": "none"})
        try:
            self._processes.wait(process, lambda: ports.answers(port, ADDRESS), START_SECONDS)
            self._accounts.write_text(json.dumps(self._account(process)))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """With everything that it held; nothing to do where it does not run."""
        self._processes.stop(NAME)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _config(self) -> Path:
        """JSON, which is YAML too."""
        path = self._folder / "config.json"
        document = {
            "version": "0.1",
            "log": {"formatter": "json"},
            "storage": {"filesystem": {"rootdirectory": str(self._folder / "images")}},
            "http": {"addr": self.host},
            "auth": {"htpasswd": {"realm": NAME, "path": str(self._folder / "htpasswd")}},
        }
        path.write_text(json.dumps(document, indent=1))
        return path

    def _account(self, process: Running) -> dict[str, Any]:
        """What a person's docker login would have written. Where the file of passwords is missing, the registry makes one with one user
        (bcrypt, a new password each time) and tells both in its log, before it listens."""
        lines = [line for line in Path(process.log).read_text().splitlines() if line.startswith("{") and '"password"' in line]
        if not lines:
            raise RuntimeError(f"{NAME} made no user: see {process.log}")
        # The log outlives the processes that wrote it.
        told = json.loads(lines[-1])
        return {"auths": {self.host: {"auth": base64.b64encode(f"{told['user']}:{told['password']}".encode()).decode()}}}

    # What others do with it

    def reference(self, name: str) -> str:
        """How a pod asks for the image `name` (repository:tag)."""
        return f"{self.host}/{name}"

    def push(self, builder: Builder, image: str, name: str) -> str:
        """Give it an image out of the builder's storage; the reference there."""
        reference = self.reference(name)
        builder.run("push", "--quiet", "--tls-verify=false", f"--authfile={self._accounts}", image, f"docker://{reference}")
        return reference

    def secret(self, name: str, namespace: str) -> dict[str, Any]:
        """The Secret that lets pods pull."""
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/dockerconfigjson",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": {".dockerconfigjson": self._accounts.read_text()},
        }
