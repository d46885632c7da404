"""The front door of a cluster as its own process, and pods for it to find: runtimes on this machine, told of as a cluster would."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from cluster import ports
from support.namespaces import Namespace

T = TypeVar("T")
LABEL = "serving.jitney.dev/model-deployment"


@dataclass
class Gateway:
    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def ask(self, path: str = "/v1/chat/completions", *, timeout: float = 60, **body: Any) -> httpx.Response:
        """One short chat."""
        usual = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "temperature": 0}
        return httpx.post(f"{self.url}{path}", json=usual | body, timeout=timeout)

    def until(self, look: Callable[[], T], seconds: float = 20) -> T:
        """What `look` gives once it is true; the log when it never is."""
        end = time.monotonic() + seconds
        while not (seen := look()):
            assert time.monotonic() < end, f"not within {seconds:.0f} s; the gateway said:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.1)
        return seen


@contextmanager
def running_gateway(
    namespace: Namespace, folder: Path, kubeconfig: Path | None = None, silence: float | None = None, **environment: str
) -> Iterator[Gateway]:
    """It ends with 0. `silence` is after how many seconds without a word it takes a watch for dead, which is more than a minute
    otherwise."""
    port, log = ports.free(1)[0], folder / f"gateway-{os.urandom(3).hex()}.log"
    settings = {"KUBECONFIG": str(kubeconfig or namespace.plane.kubeconfig), "JITNEY_NAMESPACE": namespace.name, "JITNEY_HOST": "127.0.0.1"}
    settings |= {"JITNEY_HTTP_PORT": str(port), "JITNEY_LINGER_SECONDS": "0"} | environment
    command = [sys.executable, "-m", "jitney_gateway.kubernetes"]
    if silence is not None:
        faster = f"from jitney_gateway.kubernetes import __main__, cluster; cluster.SILENCE = {silence}; __main__.main()"
        command = [sys.executable, "-c", faster]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | settings)
    gateway = Gateway(process, f"http://127.0.0.1:{port}", log)
    try:
        gateway.until(lambda: process.poll() is not None or _ready(gateway.url), 60)
        assert process.poll() is None, log.read_text()
        yield gateway
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def machine_address() -> str:
    """Of this machine, and not its loopback, which Kubernetes takes for no pod's. No packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.254", 9))
        return str(probe.getsockname()[0])


def tell_of(namespace: Namespace, port: int, name: str = "chat", **conditions: bool) -> None:
    """A pod of the model at this port of the machine, as the EndpointSlice controller tells of it. One slice for each: they have one
    address."""
    metadata = {"name": f"{name}-{port}", "labels": {LABEL: name, "kubernetes.io/service-name": name}}
    pod = {"kind": "Pod", "name": f"{name}-{port}", "namespace": namespace.name}
    endpoint = {"addresses": [machine_address()], "conditions": {"ready": True, **conditions}, "targetRef": pod}
    body = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4"}
    body |= {"endpoints": [endpoint], "ports": [{"name": "http", "port": port, "protocol": "TCP"}]}
    namespace.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(body))


def take_away(namespace: Namespace, port: int, name: str = "chat") -> None:
    namespace.kubectl("delete", "endpointslice", f"{name}-{port}")
