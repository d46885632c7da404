"""kopf's low-level handlers: thin, they never write. kopf has a thread and an event loop of its own.

kopf cancels every foreign task on its loop when it stops, and exits on some watch errors; apart from it the workers
and the lease go on, and the watches start anew beside them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import kopf

from jitney_operator.api import GROUP, LABEL, PLURAL, VERSION, Json
from jitney_operator.metrics import Metrics

logger = logging.getLogger(__name__)

# Event type (None in the first listing) and the object.
Receive = Callable[[str | None, Json], None]


class Watches:
    """Started once; calls `receive` on the main loop for each event, and `renewed` before each new listing."""

    def __init__(self, namespaces: tuple[str, ...], receive: Receive, renewed: Callable[[], None], metrics: Metrics) -> None:
        self._namespaces, self._receive, self._renewed, self._metrics = namespaces, receive, renewed, metrics
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._supervise, name="watches", daemon=True)

    @property
    def ready(self) -> bool:
        return self._ready.is_set() and self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.to_thread(self._thread.join, 10)

    def _supervise(self) -> None:
        """Some watch errors end kopf: start it again, slower each time, with a store that is built anew."""
        delay = 1.0
        while not self._stop.is_set():
            try:
                asyncio.run(self._watch())
            except Exception as error:
                logger.error("the watches ended: %s", error)
            self._ready.clear()
            if not self._stop.wait(delay * random.uniform(0.8, 1.2)):
                delay = min(30.0, delay * 2)
                self._metrics.restarts.inc()
                self._loop.call_soon_threadsafe(self._renewed)

    async def _watch(self) -> None:
        await kopf.operator(
            registry=self._registry(),
            settings=_settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=self._stop,
            ready_flag=self._ready,
        )

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(_login)
        kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)(self._on_event)
        for group, version, plural in (("apps", "v1", "deployments"), ("", "v1", "services"), ("", "v1", "pods")):
            kopf.on.event(group, version, plural, labels={LABEL: kopf.PRESENT}, registry=registry)(self._on_event)
        return registry

    async def _on_event(self, event: Any, resource: Any, **_: Any) -> None:
        # Listings leave out the kind of their items.
        body = {**event["object"], "kind": resource.kind}
        self._loop.call_soon_threadsafe(self._receive, event["type"], body)


async def _login(**known: Any) -> Any:
    if os.environ.get("KUBECONFIG"):
        return kopf.login_with_kubeconfig(**known)
    return kopf.login_with_service_account(**known)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.level = logging.WARNING
    settings.scanning.disabled = True
    # Named so that it is never taken for another operator's; it is never set, as no handler here asks for one.
    settings.persistence.finalizer = f"{GROUP}/never-set"
    # Its default pause of 0.1 s asks for full listings ten times a second when the server keeps saying 410.
    settings.watching.reconnect_backoff = 2.0
    settings.networking.error_backoffs = _Backoffs()
    settings.watching.label_selectors["apps", "v1", "deployments"] = LABEL
    settings.watching.label_selectors["v1", "services"] = LABEL
    settings.watching.label_selectors["v1", "pods"] = LABEL
    return settings


class _Backoffs:
    """Without an end: an API server that is down for minutes must not end the watches."""

    def __iter__(self) -> Iterator[float]:
        delay = 0.5
        while True:
            yield delay * random.uniform(0.8, 1.2)
            delay = min(15.0, delay * 2)
