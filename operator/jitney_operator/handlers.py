"""kopf's low-level handlers: thin, they never write. kopf has a thread and an event loop of its own.

kopf cancels every foreign task on its loop when it stops, and exits on some watch errors; apart from it the workers
and the lease go on, and the watches start anew beside them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Collection, Coroutine, Iterator
from typing import Any

import aiohttp
import kopf

from jitney_operator.api import GROUP, LABEL, PLURAL, VERSION, Json
from jitney_operator.errors import ClusterError
from jitney_operator.metrics import Metrics
from jitney_operator.pacing import Pacing

logger = logging.getLogger(__name__)

# What the API server's records call these requests.
WATCHER = "jitney-operator-watch"

# Seconds before the watches are started again; a run of LASTING seconds was a good one.
FIRST_PAUSE, LONGEST_PAUSE, LASTING = 1.0, 30.0, 60.0

# Seconds without a word after which a watch is taken for dead and opened again: the server sends a bookmark every minute.
SILENCE = 70.0

# Seconds that kopf's watches get to end by themselves, again and again.
ENDING = 1.0

CHILDREN = (("apps", "v1", "deployments"), ("", "v1", "services"), ("", "v1", "pods"), ("", "v1", "persistentvolumeclaims"))

# Event type (None in the first listing) and the object.
Receive = Callable[[str | None, Json], None]


class Watches:
    """Started once. Calls on the main loop: `is_defined` before the watches begin, `receive` for each event, `relisted` after a watch had
    to list its kind anew, and `restarted` when all of them begin again."""

    def __init__(
        self,
        namespaces: tuple[str, ...],
        is_defined: Callable[[], Coroutine[Any, Any, bool]],
        receive: Receive,
        relisted: Callable[[], None],
        restarted: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        self._namespaces, self._is_defined, self._metrics = namespaces, is_defined, metrics
        self._receive, self._relisted, self._restarted = receive, relisted, restarted
        self._stop = threading.Event()
        self._ready = threading.Event()
        # How to end the run of kopf that is under way.
        self._leave: Callable[[], object] = lambda: None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._supervise, name="watches", daemon=True)

    @property
    def ready(self) -> bool:
        return self._ready.is_set() and self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    async def stop(self) -> None:
        self._stop.set()
        # Between two runs the last one's loop is closed, and the next one looks at the flag first.
        with contextlib.suppress(RuntimeError):
            self._leave()
        await asyncio.to_thread(self._thread.join, 10)

    def _supervise(self) -> None:
        """Some watch errors end kopf: start it again, slower each time it does not last, with a store that is built anew."""
        delay = FIRST_PAUSE
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                asyncio.run(self._watch())
            except Exception as error:
                logger.error("the watches ended: %s", error)
            self._ready.clear()
            delay = FIRST_PAUSE if time.monotonic() - begun > LASTING else min(LONGEST_PAUSE, delay * 2)
            if not self._stop.wait(delay * random.uniform(0.8, 1.2)):
                self._metrics.restarts.inc()
                self._loop.call_soon_threadsafe(self._restarted)

    async def _watch(self) -> None:
        # An asyncio.Event, because kopf waits for a threading.Event in a worker thread, and the loop could not end while it waits.
        leaving, loop = asyncio.Event(), asyncio.get_running_loop()
        self._leave = lambda: loop.call_soon_threadsafe(leaving.set)
        if self._stop.is_set():
            return
        # kopf looks only when it starts which resources there are, and would never watch one that is defined later.
        if not await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._is_defined(), self._loop)):
            raise ClusterError(404, f"the server does not know {PLURAL}.{GROUP}: its definition (CRD) is missing")
        tasks = await kopf.spawn_tasks(
            registry=self._registry(),
            settings=_settings(),
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
            stop_flag=leaving,
            ready_flag=self._ready,
        )
        await _until_ended(tasks)

    def _registry(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)(self._on_event)
        for group, version, plural in CHILDREN:
            kopf.on.event(group, version, plural, labels={LABEL: kopf.PRESENT}, registry=registry)(self._on_event)
        return registry

    async def _on_event(self, event: Any, resource: Any, **_: Any) -> None:
        # Listings leave out the kind of their items.
        body = {**event["object"], "kind": resource.kind}
        self._loop.call_soon_threadsafe(self._receive, event["type"], body)

    def _on_relist(self) -> None:
        self._loop.call_soon_threadsafe(self._relisted)

    async def _login(self, **known: Any) -> Any:
        """kopf's own credentials in a session of ours, for its pace. Called again after a 401, so a rotated token is read anew."""
        login = kopf.login_with_kubeconfig if os.environ.get("KUBECONFIG") else kopf.login_with_service_account
        info = login(**known)
        if info is None:
            raise kopf.PermanentError("no credentials: neither KUBECONFIG nor a pod's service account")
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
            headers={**info.as_http_headers(), "User-Agent": WATCHER},
            proxy=info.proxy_url,
            trust_env=info.trust_env,
            middlewares=(Pacing(self._on_relist),),
        )
        return kopf.AiohttpSession(server=info.server, default_namespace=info.default_namespace, aiohttp_session=session)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.level = logging.WARNING
    settings.scanning.disabled = True
    # Named so that it is never taken for another operator's; it is never set, as no handler here asks for one.
    settings.persistence.finalizer = f"{GROUP}/never-set"
    # Its default pause of 0.1 s asks for full listings ten times a second when the server keeps saying 410.
    settings.watching.reconnect_backoff = 2.0
    settings.watching.inactivity_timeout = SILENCE
    settings.networking.error_backoffs = _Backoffs()
    for group, version, plural in CHILDREN:
        settings.watching.label_selectors[(group, version, plural) if group else (version, plural)] = LABEL
    return settings


async def _until_ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Runs kopf until one of its tasks ends, and then sees to it that all do.

    kopf cancels each watch once, together with what it listens to for a pause: a watch that waits for an answer at that moment takes
    its end for a pause, begins anew and is waited for without end (1.45.2). So they are cancelled until they are gone.
    """
    this = asyncio.current_task()
    running = asyncio.create_task(kopf.run_tasks(tasks, ignored={this}))
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    spared = {this, running, *tasks}
    while not running.done():
        await asyncio.wait({running}, timeout=ENDING)
        for task in asyncio.all_tasks() - spared:
            task.cancel()
    await running


class _Backoffs:
    """Without an end: an API server that is down for minutes must not end the watches."""

    def __iter__(self) -> Iterator[float]:
        delay = 0.5
        while True:
            yield delay * random.uniform(0.8, 1.2)
            delay = min(15.0, delay * 2)
