"""Asks pods that are not ready how far they are, or what is wrong: `GET /readyz` of the runtime, which says so from the first second on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from jitney_operator.api import Json, Key
from jitney_operator.asking import Asking
from jitney_operator.conditions import LOADING, Progress
from jitney_operator.observed import Pod
from jitney_operator.store import Store
from jitney_operator.workqueue import WorkQueue

PERIOD = 1.0
# Seconds after which a pod that says nothing is no longer believed to be where it was.
SILENCE = 15.0
_SILENT = f"; the pod has not answered for {SILENCE:.0f} s"
_MOST = 4096


@dataclass(frozen=True)
class Heard:
    """What one process of a pod said of itself."""

    process: str
    progress: Progress
    at: float = field(compare=False)


class Scrape:
    """Main loop only. `progress` is what the newest round heard, and before the first one what the resource says already: an operator that
    starts takes nothing back. A change queues the resource. `leading` too is false while the store may not be believed."""

    def __init__(self, store: Store, queue: WorkQueue, leading: Callable[[], bool]) -> None:
        self._store, self._queue, self._leading = store, queue, leading
        self._heard: dict[Key, Heard] = {}
        self._asked = False

    def progress(self, key: Key) -> Progress | None:
        heard = self._before(key)
        return heard.progress if heard else None

    async def run(self) -> None:
        """For ever."""
        async with Asking() as asking:
            while True:
                if self._leading():
                    await self._round(asking)
                    self._asked = True
                else:
                    self._heard, self._asked = {}, False
                await asyncio.sleep(PERIOD)

    async def _round(self, asking: Asking) -> None:
        loading = self._store.loading()
        answers = await asyncio.gather(*(_progress_of(asking, pod) for pod in loading.values()))
        heard = {
            key: found for (key, pod), answer in zip(loading.items(), answers, strict=True) if (found := self._newest(key, pod, answer))
        }
        changed = [key for key in heard.keys() | self._heard.keys() if heard.get(key) != self._heard.get(key)]
        self._heard = heard
        for key in changed:
            self._queue.add(key)

    def _newest(self, key: Key, pod: Pod, answer: Progress | None) -> Heard | None:
        """A process too busy to answer is where it was before, for a while; another one begins anew."""
        now = _now()
        if answer is not None:
            return Heard(pod.process, answer, now)
        before = self._before(key)
        if before is None or before.process != pod.process:
            return None
        if now - before.at < SILENCE:
            return before
        # Its node may be lost, which nobody notices of a pod that is not ready.
        line = before.progress.line.removesuffix(_SILENT)
        return replace(before, progress=Progress(before.progress.reason, line + _SILENT))

    def _before(self, key: Key) -> Heard | None:
        if self._asked or key in self._heard:
            return self._heard.get(key)
        pod, mdep = self._store.starting(key), self._store.model_deployment(key)
        said = _told(mdep.status) if mdep else None
        return Heard(pod.process, said, _now()) if pod and said else None


def _told(status: Json) -> Progress | None:
    """What the resource says of a pod on its way."""
    loaded: Json = next((entry for entry in status.get("conditions", ()) if entry["type"] == "ModelLoaded"), {})
    return Progress(loaded["reason"], status.get("progress", "")) if loaded.get("reason") in LOADING else None


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _progress_of(asking: Asking, pod: Pod) -> Progress | None:
    body = await asking.ask(pod, "/readyz", _MOST)
    try:
        return None if body is None else _read(json.loads(body), pod)
    except (ValueError, RecursionError):
        return None


def _read(body: Any, pod: Pod) -> Progress | None:
    """None for anything but a runtime on its way, or one that served and fails: the pod's image may be somebody's own."""
    if not isinstance(body, dict):
        return None
    if pod.silent:
        # A start that fails ends, and its last words tell more.
        words = str(body.get("progress", ""))[:256]
        return Progress("NotAnswering", words, pod.name) if body.get("status") == "failed" and words else None
    if body.get("status") == "ready":
        return Progress("WarmingUp", "waiting for the readiness probe")
    reason = body.get("reason")
    if body.get("status") != "starting" or not isinstance(reason, str) or reason not in LOADING:
        return None
    return Progress(reason, str(body.get("progress", ""))[:256])
