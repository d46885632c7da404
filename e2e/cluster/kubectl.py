"""kubectl and helm against one cluster, with waits that end and say what they saw."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from cluster.binaries import program

Answer = TypeVar("Answer")


class CommandFailed(RuntimeError):
    """A command ended with an error; the message is its standard error."""


class Kubectl:
    """Both tools with the same kubeconfig (None: the user's own)."""

    def __init__(self, kubeconfig: Path | None) -> None:
        self._flags = [f"--kubeconfig={kubeconfig}"] if kubeconfig else []

    def __call__(self, *arguments: str, input: str | None = None, seconds: float = 300) -> str:
        return self._run("kubectl", arguments, input, seconds)

    def helm(self, *arguments: str, seconds: float = 300) -> str:
        return self._run("helm", arguments, None, seconds)

    def watching(self, kind: str) -> subprocess.Popen[bytes]:
        """Every object of a kind and each of its changes, as JSON on its standard output, until it is terminated."""
        arguments = ["get", kind, "--all-namespaces", "--watch", "--output-watch-events", "--output=json"]
        return subprocess.Popen([str(program("kubectl")), *self._flags, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def open(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that goes on until it is terminated, and its standard output."""
        command = [str(program("kubectl")), *self._flags, *arguments]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def _run(self, name: str, arguments: tuple[str, ...], input: str | None, seconds: float) -> str:
        command = [str(program(name)), *self._flags, *arguments]
        done = subprocess.run(command, input=input, capture_output=True, text=True, check=False, timeout=seconds)
        if done.returncode:
            raise CommandFailed(f"{name} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, *objects: dict[str, Any]) -> None:
        document = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self("apply", "--server-side", "--force-conflicts", "-f", "-", input=json.dumps(document))

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
        """The object; None when there is none."""
        text = self("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        return json.loads(text) if text.strip() else None

    def list(self, kind: str, namespace: str = "default", *flags: str) -> list[dict[str, Any]]:
        return list(json.loads(self("get", kind, "-n", namespace, "-o", "json", *flags))["items"])

    def raw(self, path: str) -> str:
        return self("get", f"--raw={path}")

    def picture(self, namespace: str) -> str:
        """What a person would look at when something is stuck there: objects, events, the ends of all logs."""
        parts = [
            self._attempt("get", "mdep,deployments,pods,services,pvc", "-n", namespace, "-o", "wide"),
            self._attempt("get", "mdep", "-n", namespace, "-o", "yaml"),
            self._attempt("get", "events", "-n", namespace, "--sort-by=.lastTimestamp"),
        ]
        for pod in self._attempt("get", "pods", "-n", namespace, "-o", "name").split():
            parts.append(f"--- the end of {pod}'s log\n" + self._attempt("logs", pod, "-n", namespace, "--tail=40", "--all-containers"))
        return "\n".join(parts)

    def _attempt(self, *arguments: str) -> str:
        try:
            return self(*arguments)
        except (CommandFailed, subprocess.TimeoutExpired) as error:
            return f"({error})"


def wait_for(question: Callable[[], Answer | None], seconds: float, what: str, *, every: float = 0.25) -> Answer:
    """The first answer that is not None or False; TimeoutError saying `what` was waited for."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := question():
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s there is still no {what}")
        time.sleep(every)
