"""An independent ear at the runtimes: each that starts is asked how far it is, several times in a second, and what it says anew is stamped.

Kubernetes knows nothing of a download or a load. What the operator could have known, and when, is what a pod answers to anybody who asks.
"""

from __future__ import annotations

import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import httpx

from cluster.kubectl import Kubectl
from product.eye import Eye, Seen
from product.pods import LABEL

# Seconds between two questions to a runtime, and those that one may take: a busy process is where it was.
PERIOD, PATIENCE = 0.2, 2.0
PORT = 8000


@dataclass
class _Starting:
    """A pod whose process runs and is not ready. `silent` is the newest moment at which it had not said what it says now."""

    pod: Seen
    process: str
    silent: float
    said: dict[str, Any] = field(default_factory=dict)


class Ear:
    """Open for the length of a with block; what it hears is the eye's kind "runtimes": `metadata` of the pod and `said`.

    A stamp is of the last question before, so that nothing seems to be known later than it was. It asks through `kubectl proxy`: pods of
    other clusters are not reached from here.
    """

    def __init__(self, kubectl: Kubectl, eye: Eye) -> None:
        self._kubectl, self._eye = kubectl, eye
        self._over = threading.Event()
        self._starting: dict[str, _Starting] = {}
        self._position = 0

    def __enter__(self) -> Self:
        self._proxy = self._kubectl.open("proxy", "--port=0")
        assert self._proxy.stdout is not None
        line = self._proxy.stdout.readline()
        found = re.search(r"127\.0\.0\.1:\d+", line)
        assert found, f"kubectl proxy said {line!r}"
        self._url = f"http://{found[0]}/api/v1/namespaces"
        self._thread = threading.Thread(target=self._listen, name="ear", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(10)
        self._proxy.terminate()
        self._proxy.wait(10)

    def _listen(self) -> None:
        with httpx.Client(timeout=PATIENCE, trust_env=False) as client, ThreadPoolExecutor(8) as several:
            while not self._over.wait(PERIOD):
                self._look()
                list(several.map(lambda starting: self._ask(client, starting), self._starting.values()))

    def _look(self) -> None:
        """Which pods start now, by what the watches have seen since."""
        pods = self._eye.after("pods", self._position)
        self._position += len(pods)
        for pod in pods:
            uid, process = pod["metadata"]["uid"], _starts(pod)
            if process is None:
                self._starting.pop(uid, None)
            elif uid not in self._starting or self._starting[uid].process != process:
                self._starting[uid] = _Starting(pod, process, time.time())

    def _ask(self, client: httpx.Client, starting: _Starting) -> None:
        metadata, asked = starting.pod["metadata"], time.time()
        try:
            answer = client.get(f"{self._url}/{metadata['namespace']}/pods/{metadata['name']}:{PORT}/proxy/readyz")
            said = json.loads(answer.content)
        except (httpx.HTTPError, ValueError):
            # Too busy to answer: nobody knows what it would have said.
            return
        # The API server's own answers, as long as nobody listens, are no runtime's.
        if isinstance(said, dict) and "progress" in said and said != starting.said:
            starting.said = said
            self._eye.note("runtimes", starting.silent, {"metadata": metadata, "said": said})
        starting.silent = asked


def _starts(pod: Seen) -> str | None:
    """The process of a pod of ours that runs and is not ready."""
    status = next(iter(pod["status"].get("containerStatuses") or []), {})
    ours = LABEL in pod["metadata"].get("labels", {}) and "deletionTimestamp" not in pod["metadata"]
    runs = "running" in status.get("state", {}) and not status.get("ready")
    return str(status.get("containerID")) if ours and runs else None
