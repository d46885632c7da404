"""Where models are launched by Xinference's calls: a front door of this machine, or the cluster's. What is asked of both is the same."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from test_model import model_folder

from cluster import ports
from cluster.kubectl import Kubectl, wait_for
from cluster.target import Cluster
from product import front_door, model_claim

LABEL = "serving.jitney.dev/model-deployment"
START_SECONDS, STOP_SECONDS = 60, 60
COMMAND = (sys.executable, "-m", "jitney_gateway.cli")
# What the person who runs the tests has set would lead the command line elsewhere.
NOT_INHERITED = ("JITNEY_ENDPOINT", "XINFERENCE_ENDPOINT", "JITNEY_API_KEY", "XINFERENCE_API_KEY")


@dataclass(frozen=True)
class Place:
    """`path` is the test model as a launch's model_path, `uri` as a family's model_uri. `left` tells what is still there of the models of
    some uids: resources and what was made for them, or processes."""

    url: str
    path: str
    uri: str
    left: Callable[[tuple[str, ...]], list[str]]

    def jitney(self, *arguments: str) -> subprocess.Popen[str]:
        """A command of the command line, begun."""
        return _begun([*COMMAND, *arguments, "-e", self.url])

    def curl(self, path: str, body: dict[str, Any]) -> subprocess.Popen[str]:
        """A POST with the words of Xinference's documentation, begun."""
        headers = ["-H", "accept: application/json", "-H", "Content-Type: application/json"]
        return _begun(["curl", "--silent", "--show-error", "-X", "POST", f"{self.url}{path}", *headers, "-d", json.dumps(body)])


def ended(process: subprocess.Popen[str], seconds: float = 60) -> tuple[str, str]:
    """What it printed on standard output and on standard error, once it has ended well."""
    output, errors = process.communicate(timeout=seconds)
    assert process.returncode == 0, f"{process.args} ended with {process.returncode}:\n{output}\n{errors}"
    return output, errors


def _begun(command: list[str]) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextmanager
def in_cluster(cluster: Cluster, kubectl: Kubectl) -> Iterator[Place]:
    """Through the chart's two front doors, as many as it has by itself."""
    reference = model_claim.provide(cluster, kubectl, model_folder(), front_door.HOME)

    def left(uids: tuple[str, ...]) -> list[str]:
        resources = kubectl("get", "mdep", "-n", front_door.HOME, "-o", "name").split()
        ours = [name for name in resources if name.partition("/")[2] in uids]
        children = ("deployments,replicasets,services,pods", "-n", front_door.HOME, "-l", f"{LABEL} in ({','.join(uids)})")
        return ours + kubectl("get", *children, "-o", "name").split()

    with front_door.installed(cluster, kubectl) as url:
        yield Place(url, reference, reference, left)


@contextmanager
def on_this_machine(folder: Path) -> Iterator[Place]:
    """`jitney local` with its state in `folder`, on a port that nobody uses. It ends well, and no process of it is left."""
    port, log = ports.free(1)[0], folder / "log"
    url, model = f"http://127.0.0.1:{port}", str(model_folder())
    with log.open("wb") as output:
        command = [*COMMAND, "local", "--port", str(port), "--state-dir", str(folder / "state")]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        wait_for(lambda: process.poll() is not None or _answers(url), START_SECONDS, f"answer of {url}")
        yield Place(url, model, f"file://{model}", lambda uids: _runtimes(process.pid, uids))
    finally:
        process.terminate()
        code = process.wait(STOP_SECONDS)
    assert code == 0, log.read_text(errors="replace")[-3000:]


@contextmanager
def beside_the_model(place: Place) -> Iterator[tuple[Path, str]]:
    """A folder of this machine for other models, and what it is called there; with the local cluster it is on the claim too. Gone
    afterwards."""
    folder = model_folder().parent / f"e2e-{uuid.uuid4().hex[:6]}"
    folder.mkdir()
    folder.chmod(0o755)
    try:
        yield folder, f"{place.uri.rpartition('/')[0]}/{folder.name}"
    finally:
        shutil.rmtree(folder)


def open_to_pods(model: Path) -> None:
    """Weights are written for their owner alone, and pods run as somebody else."""
    for file in model.iterdir():
        file.chmod(0o644)


def _runtimes(parent: int, uids: tuple[str, ...]) -> list[str]:
    """The command lines of the processes that serve them."""
    words = f"--served-model-name ({'|'.join(uids)}) "
    command = ["pgrep", "--parent", str(parent), "--list-full", "--full", "--", words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
