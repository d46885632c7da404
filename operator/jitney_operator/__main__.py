"""`jitney-operator`: wires the parts, runs until SIGTERM, releases the lease."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import uuid
from functools import partial

from jitney_operator import verdict
from jitney_operator.api import KIND, Json
from jitney_operator.autoscalers import Autoscalers
from jitney_operator.claims import Claims
from jitney_operator.cluster import Cluster
from jitney_operator.errors import ClusterError, SettingsError
from jitney_operator.handlers import Watches
from jitney_operator.health import Health
from jitney_operator.lease import Lease
from jitney_operator.load import Load
from jitney_operator.metrics import Metrics
from jitney_operator.observer import Observer
from jitney_operator.pruning import Pruning
from jitney_operator.reconcile import SETTLE, Reconciler
from jitney_operator.scrape import Scrape
from jitney_operator.settings import Settings
from jitney_operator.store import Store
from jitney_operator.troubles import Troubles
from jitney_operator.warmup import Warmup
from jitney_operator.workqueue import Priority, WorkQueue
from jitney_operator.writer import Writer

logger = logging.getLogger(__name__)

WORKERS = 8


def main() -> None:
    """The console script; exit code 2 when the settings are wrong."""
    try:
        _start(Settings.read(os.environ))
    except SettingsError as error:
        sys.exit(_complain(error))


def _start(settings: Settings) -> None:
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # One line per event is a person's debugging, not a log.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    # That it does not run in the main thread is on purpose (handlers).
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
    asyncio.run(run(settings))


def _complain(error: SettingsError) -> int:
    print(f"jitney-operator: {error}", file=sys.stderr)
    return 2


async def run(settings: Settings) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    cluster = await Cluster.connect()
    # The pod's name alone could belong to two containers in a row.
    lease = Lease(cluster, settings.namespace, f"{settings.identity}_{uuid.uuid4().hex[:8]}")
    try:
        await _serve(settings, cluster, lease, stop)
    finally:
        await _leave(lease)
        await cluster.close()


async def _serve(settings: Settings, cluster: Cluster, lease: Lease, stop: asyncio.Event) -> None:
    store, queue, metrics = Store(), WorkQueue(), Metrics()
    warmup = Warmup(store, cluster, settings.watch_namespaces)
    pruning = Pruning(store, queue, cluster, settings.watch_namespaces)
    scrape = Scrape(store, queue, lambda: lease.mine and warmup.done.is_set())
    load = Load(store, queue, lambda: lease.mine)
    troubles = Troubles(store, queue, cluster, lambda: lease.mine and warmup.done.is_set())
    autoscalers = Autoscalers(store, queue, cluster, settings.watch_namespaces, lambda: lease.mine)
    observer = Observer(store, scrape, load, troubles, Claims(cluster), autoscalers)
    writer = Writer(cluster, lease, metrics)
    reconciler = Reconciler(store, queue, writer, lease, observer, settings, settings.catalogue, metrics, warmup.done)
    watches = Watches(
        settings.watch_namespaces,
        cluster.is_defined,
        lambda kind, body: receive(store, queue, kind, body),
        pruning.soon,
        warmup.again,
        metrics,
    )
    health = Health(settings.http_port, lambda: watches.ready, lambda: lease.mine, metrics, partial(verdict.of, settings=settings))
    await health.start()
    watches.start()
    jobs = [
        lease.run(),
        warmup.run(),
        pruning.run(),
        scrape.run(),
        load.run(),
        troubles.run(),
        autoscalers.run(),
        *(reconciler.work() for _ in range(WORKERS)),
    ]
    tasks = [asyncio.create_task(job) for job in jobs]
    stopping: asyncio.Task[None] = asyncio.create_task(_until(stop))
    done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await _leave(lease)
    await watches.stop()
    await health.stop()
    for task in done - {stopping}:
        # These run for ever: one that ended has a defect to show.
        task.result()


def receive(store: Store, queue: WorkQueue, kind: str | None, body: Json) -> None:
    """One event of a watch, on the main loop."""
    key = store.bury(body) if kind == "DELETED" else store.put(body)
    if key is None:
        return
    if body["kind"] == KIND:
        queue.add(key, Priority.SPEC)
    else:
        queue.add_after(key, SETTLE)


async def _until(stop: asyncio.Event) -> None:
    await stop.wait()


async def _leave(lease: Lease) -> None:
    try:
        await asyncio.wait_for(lease.release(), 2)
    except (ClusterError, TimeoutError) as error:
        logger.warning("the lease could not be released: %s", error)


if __name__ == "__main__":
    main()
