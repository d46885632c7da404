"""`jitney doctor`: what is needed and whether it is there, one line each; a problem comes with a way out."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from jitney_gateway.cli import endpoint as places
from jitney_gateway.cli.client import Client, Failed
from jitney_gateway.cli.options import Endpoint, Key, Output
from jitney_gateway.cli.output import Form, out, show
from jitney_gateway.local import memory

GIB = 1024**3
# Enough to begin with a small model.
LEAST_MEMORY, LEAST_DISK = 1 * GIB, 5 * GIB
TORCH_SECONDS = 120
# A leader that lives says so every few seconds.
LEASE_SECONDS = 60
# With the names of README's install, whose other values stay.
ENABLE = (
    "the chart leaves it off: helm upgrade jitney charts/jitney --namespace jitney-system --reset-then-reuse-values "
    "--set gateway.enabled=true --set gateway.image.repository=REGISTRY/jitney-gateway"
)


@dataclass(frozen=True)
class Check:
    """`way_out` is empty where all is well."""

    name: str
    said: str
    way_out: str = ""

    @property
    def well(self) -> bool:
        return not self.way_out


def doctor(endpoint: Endpoint = None, output: Output = Form.TABLE, api_key: Key = None) -> None:
    """Look for problems: the front door, its models, this machine or the cluster. Ends with 1 where there is one."""
    checks = []
    for check in _all(endpoint, api_key):
        checks.append(check)
        # One by one: some take a while.
        if output is Form.TABLE:
            _print(check)
    if output is not Form.TABLE:
        show([{"ok": check.well, **asdict(check)} for check in checks], output, Table())
    problems = sum(not check.well for check in checks)
    if output is Form.TABLE:
        out.print("no problem found" if not problems else f"{problems} of {len(checks)} checks found a problem")
    if problems:
        raise typer.Exit(1)


def _print(check: Check) -> None:
    word = Text("ok     ", "green") if check.well else Text("problem", "bold red")
    out.print(word, Text(f"{check.name:<11}{check.said}"), soft_wrap=True)
    if not check.well:
        out.print(f"{'':19}{check.way_out}", soft_wrap=True)


def _all(given: str | None, key: str | None) -> Iterator[Check]:
    try:
        place = places.find(given)
    except Failed as error:
        yield Check("endpoint", str(error), "start one with `jitney local`, install the chart with the gateway, or name one with -e")
        if not given:
            yield from _machine()
            yield _port()
        if not given or given == places.KUBECONFIG:
            yield from _cluster()
        return
    yield from _front_door(Client(place.url, key, seconds=10), place, bool(key))
    if place.on_this_machine:
        yield from _machine()
    if place.way is places.Way.CLUSTER:
        yield from _cluster()


# The front door


def _front_door(client: Client, place: places.Place, has_key: bool) -> Iterator[Check]:
    try:
        wants = client.wants_keys()
    except Failed as error:
        yield Check("endpoint", str(error), "see whether it runs and whether the address is right")
        return
    yield Check("endpoint", place.said if place.way is not places.Way.NAMED else f"{place.url} answers")
    # Where a key is wanted and ours is none, the next check says so.
    with contextlib.suppress(Failed):
        theirs, ours = client.version(), version("jitney")
        same = "" if theirs == ours else "install the same version on both sides; other versions may know other routes"
        yield Check("version", f"the front door has {theirs}, this command {ours}", same)
    try:
        models = client.models()
    except Failed as error:
        yield Check("key", f"the front door refuses: {error}", "give the right key with --api-key or JITNEY_API_KEY")
        return
    yield Check("key", "it is taken" if wants and has_key else "none is needed")
    yield from _models(models)


def _models(models: list[dict[str, Any]]) -> Iterator[Check]:
    if not models:
        yield Check("model", "none is launched")
    for model in models:
        uid, status = model["id"], model.get("status", "READY")
        words = f"{uid}: {status}" + (f", {model['message']}" if model.get("message") else "")
        yield Check("model", words, f"`jitney logs -u {uid}` tells more; terminate it and launch it anew" if status == "ERROR" else "")


# This machine


def _machine() -> Iterator[Check]:
    # It takes a while to import.
    from jitney_gateway.local.server import default_folder

    free = memory.available()
    yield Check("memory", f"{free / GIB:.1f} GiB free", "" if free >= LEAST_MEMORY else "terminate a model or stop other programs")
    for name, folder in {"downloads": _downloads(), "state": default_folder()}.items():
        yield _disk(name, folder)
    yield _torch()


def _downloads() -> Path:
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface"
    return Path(home)


def _disk(name: str, folder: Path) -> Check:
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    least = LEAST_DISK if name == "downloads" else GIB // 10
    if not os.access(there, os.W_OK):
        return Check(name, f"{there} may not be written", "set HF_HOME (downloads) or --state-dir to a folder of yours")
    return Check(name, f"{free / GIB:.0f} GiB free at {folder}", "" if free >= least else "make room there, or set HF_HOME to another disk")


def _torch() -> Check:
    """In a process of its own, as a model is."""
    way_out = "it comes with `make setup` in the checkout"
    code = "import torch, jitney_runtime; print(torch.__version__, 'with a GPU' if torch.cuda.is_available() else 'without a GPU')"
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=TORCH_SECONDS)
    except subprocess.TimeoutExpired:
        return Check("torch", f"was not imported within {TORCH_SECONDS} s", "try again when this machine has less to do")
    if done.returncode:
        return Check("torch", f"cannot be imported: {(done.stderr.strip().splitlines() or ['killed'])[-1]}", way_out)
    return Check("torch", done.stdout.strip())


def _port() -> Check:
    """No front door answers there: then nothing should."""
    host, port = places.HERE.removeprefix("http://").split(":")
    try:
        with socket.create_server((host, int(port))):
            return Check("port", f"{port} is free for `jitney local`")
    except OSError as error:
        return Check(
            "port", f"{port} is taken by another program ({error.strerror})", "stop it, or start `jitney local --port` with another"
        )


# The cluster


def _cluster() -> Iterator[Check]:
    """Each needs what came before it."""
    # It takes a while to import.
    from jitney_gateway.cli.cluster import GATEWAY, Cluster

    try:
        cluster = Cluster()
        yield Check("kubeconfig", f"the cluster {cluster.name} answers, Kubernetes {cluster.version()}")
    except Failed as error:
        yield Check("kubeconfig", str(error), "set KUBECONFIG to one that works with kubectl; without Kubernetes use `jitney local`")
        return
    install = "install the chart: helm install jitney charts/jitney --namespace jitney-system --create-namespace"
    try:
        there = cluster.defined()
        yield Check("resource", "ModelDeployment is defined" if there else "ModelDeployment is not defined", "" if there else install)
        yield _operator(cluster.operator(), install)
        pods = cluster.gateways()
    except Failed as error:
        yield Check("cluster", str(error), "ask for the right to read pods, leases and definitions")
        return
    ready = [pod for pod in pods if pod.ready]
    names = ", ".join(f"{pod.namespace}/{pod.name}" for pod in ready or pods)
    if not pods:
        yield Check("gateway", f"no pod is labelled {GATEWAY}", ENABLE)
    elif not ready:
        yield Check("gateway", f"not ready: {names}", f"kubectl describe pod -n {pods[0].namespace} {pods[0].name}")
    else:
        yield Check("gateway", f"ready: {names}")


def _operator(found: tuple[str, float] | None, install: str) -> Check:
    if found is None:
        return Check("operator", "none has ever led: there is no lease jitney-operator", install)
    holder, age = found
    if age > LEASE_SECONDS:
        return Check(
            "operator",
            f"{holder} has been silent for {age:.0f} s",
            "look at its pod: kubectl get pods -A -l app.kubernetes.io/part-of=jitney",
        )
    return Check("operator", f"{holder} leads")
