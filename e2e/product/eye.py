"""An independent eye on the cluster: kubectl's own watches, each change stamped as it comes. No poll decides how late something was."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any, Self

from cluster.kubectl import Kubectl

Seen = dict[str, Any]
KINDS = ("pods", "deployments", "modeldeployments", "events", "endpointslices")
# Seconds before a watch that ended is opened again.
PAUSE = 0.2
# Noted by others.
HEARD = ("runtimes",)


class Eye:
    """Open for the length of a with block; one thread per kind."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl
        self._seen: dict[str, list[tuple[float, Seen]]] = {kind: [] for kind in (*KINDS, *HEARD)}
        self._news = threading.Condition()

    def __enter__(self) -> Self:
        self._open, self._watches = True, {kind: self._kubectl.watching(kind) for kind in KINDS}
        for kind in KINDS:
            threading.Thread(target=self._look, args=(kind,), name=f"eye-{kind}", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._news:
            self._open, watches = False, list(self._watches.values())
        for watch in watches:
            watch.terminate()
            watch.wait(10)

    def _look(self, kind: str) -> None:
        """A watch that the server ends is opened again: none lives longer than its --min-request-timeout, up to twice over. All objects
        come once more, those that have not changed are no news, and what came and went in between is lost."""
        known: set[tuple[str, str]] = set()
        while True:
            self._read(kind, self._watches[kind].stdout, known)
            time.sleep(PAUSE)
            with self._news:
                if not self._open:
                    return
                self._watches[kind].terminate()
                self._watches[kind].wait(10)
                self._watches[kind] = self._kubectl.watching(kind)

    def _read(self, kind: str, stream: IO[bytes], known: set[tuple[str, str]]) -> None:
        """kubectl writes a line for each change. More than 500 objects that are there already come as lists of so many."""
        for line in stream:
            now, document = time.time(), json.loads(line)
            if document["type"] == "ERROR":
                return
            found = document["object"]
            for each in sorted(found.get("items", [found]), key=_version):
                metadata = each["metadata"]
                if (version := (metadata["uid"], metadata["resourceVersion"])) not in known:
                    known.add(version)
                    self.note(kind, now, each)

    def note(self, kind: str, at: float, found: Seen) -> None:
        """Seen at that moment, in Unix time."""
        with self._news:
            self._seen[kind].append((at, found))
            self._news.notify_all()

    def seen(self, kind: str) -> list[Seen]:
        """Every state of every object so far, in the order in which they came."""
        return self.after(kind, 0)

    def after(self, kind: str, position: int) -> list[Seen]:
        """Those that came after the first so many."""
        with self._news:
            return [found for _, found in self._seen[kind][position:]]

    def stamped(self, kind: str) -> list[tuple[float, Seen]]:
        """All of them, each with its moment in Unix time."""
        with self._news:
            return list(self._seen[kind])

    def first(self, kind: str, holds: Callable[[Seen], bool], seconds: float, what: str, since: float = 0.0) -> float:
        """When an object of `kind` that `holds` was first seen after `since`, in Unix time; TimeoutError where none comes."""
        deadline, position = time.monotonic() + seconds, 0
        with self._news:
            while True:
                news = self._seen[kind][position:]
                for at, found in news:
                    if at >= since and holds(found):
                        return at
                position += len(news)
                if not self._news.wait(deadline - time.monotonic()) and time.monotonic() >= deadline:
                    raise TimeoutError(f"after {seconds:.0f} s nobody has seen {what}")


def _version(found: Seen) -> int:
    return int(found["metadata"]["resourceVersion"])
