"""One key: observe, plan, apply, report. Workers run it while the Lease is held."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from jitney_operator import events, plan
from jitney_operator.api import Json, Key, ModelDeployment
from jitney_operator.catalogue import Catalogue
from jitney_operator.errors import ClusterError, NotLeading, Rejected, StoreLost
from jitney_operator.lease import Lease
from jitney_operator.metrics import Metrics
from jitney_operator.observer import Observer
from jitney_operator.plan import Plan
from jitney_operator.settings import Settings
from jitney_operator.store import Store
from jitney_operator.workqueue import WorkQueue
from jitney_operator.writer import Writer

logger = logging.getLogger(__name__)

# Children change in bursts; looked at once a little later they cost one status write instead of several.
SETTLE = 0.1
# Seconds between two writes that tell nothing but how far a pod has come.
PROGRESS_PACE = 5.0
# Seconds between two tries of what the cluster refuses, at the longest: nobody tells us when a quota has room again.
REFUSED_PACE = 4.0
# Seconds until an Event that could not be posted is tried again.
TELL_AGAIN = 5.0


class Reconciler:
    """Wired once, by argument."""

    def __init__(
        self,
        store: Store,
        queue: WorkQueue,
        writer: Writer,
        lease: Lease,
        observer: Observer,
        settings: Settings,
        catalogue: Catalogue,
        metrics: Metrics,
        warm: asyncio.Event,
    ) -> None:
        self._store = store
        self._queue = queue
        self._writer = writer
        self._lease = lease
        self._observer = observer
        self._settings = settings
        self._catalogue = catalogue
        self._metrics = metrics
        self._warm = warm
        self._reported: dict[Key, float] = {}
        # Events that could not be posted yet, in the order of their transitions.
        self._untold: dict[Key, list[Json]] = {}

    async def work(self) -> None:
        """One worker, for ever."""
        while True:
            key = await self._queue.take()
            # After the taking: an idle worker waits there while the store is emptied or the lease is lost.
            await self._lease.held.wait()
            await self._warm.wait()
            try:
                await self._attempt(key)
            finally:
                self._queue.done(key)

    async def _attempt(self, key: Key) -> None:
        try:
            await self.reconcile(key)
        except (NotLeading, StoreLost):
            # Whoever leads now looks at everything; should it be us again, the key is still here.
            self._queue.add_after(key, 1.0)
        except ClusterError as error:
            delay = self._queue.retry(key, error.retry_after)
            # 409: somebody wrote in between, and the watch is about to say what.
            logger.log(logging.INFO if error.status == 409 else logging.WARNING, "%s: %s; again in %.1f s", key, error, delay)
        except Exception:
            # A worker must outlive a defect in one object's handling; the others still want to be served.
            logger.exception("%s: unexpected; again in %.1f s", key, self._queue.retry(key))

    async def reconcile(self, key: Key) -> None:
        self._metrics.reconciles.inc()
        mdep = self._store.model_deployment(key)
        if mdep is None or mdep.deleting:
            self._queue.forget(key)
            self._reported.pop(key, None)
            self._untold.pop(key, None)
            self._observer.forget(key)
            return
        await self._observer.prepare(mdep)
        self._require_store()
        wish, refused = await self._apply(mdep, self._plan(mdep))
        self._require_store()
        await self._report(mdep, wish.status(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))
        await self._tell(key)
        if refused:
            # Nobody tells us when a stranger's object goes away, or when the cluster would take ours.
            self._queue.retry(key, 1.0, REFUSED_PACE)
        else:
            self._queue.forget(key)

    def _require_store(self) -> None:
        """Asked after each wait: without it no pod would be known, and the status would say so."""
        if not self._warm.is_set():
            raise StoreLost

    def _plan(self, mdep: ModelDeployment) -> Plan:
        sight = self._observer.see(mdep)
        return plan.make(sight.mdep, sight.observed, self._settings, self._catalogue, sight.progress)

    async def _apply(self, mdep: ModelDeployment, wish: Plan) -> tuple[Plan, bool]:
        """What holds afterwards, and whether the cluster refused a part of it."""
        try:
            for child in wish.changes:
                live = self._store.find(child["kind"], mdep.key, child["metadata"]["name"])
                # Our own write is known before the watch brings it: the next look must not repeat it.
                self._store.put(await self._writer.apply(child, mdep, live))
        except Rejected as error:
            return wish.refused(error), True
        except ClusterError as error:
            self._forget_missing(error, wish, mdep)
            if not error.final:
                raise
            # The person must know, whatever the next attempts bring.
            refusal = Rejected("ChildRefused", f"The cluster refuses what this needs: {error.message}", invalid=error.invalid)
            return wish.refused(refusal), True
        # With the answers in the store the status is of what is there now: no event may follow that would tell it.
        return (self._plan(mdep) if wish.changes else wish), False

    def _forget_missing(self, error: ClusterError, wish: Plan, mdep: ModelDeployment) -> None:
        """409 or 404 on what the store holds: it is stale there, so the next attempt asks the server."""
        if error.status in (404, 409):
            for child in wish.changes:
                held = self._store.find(child["kind"], mdep.key, child["metadata"]["name"])
                if held:
                    self._store.drop(held)

    async def _report(self, mdep: ModelDeployment, status: Json) -> None:
        if status == mdep.status or self._may_wait(mdep, status):
            return
        event = events.transition(mdep, status, self._settings.identity, datetime.now(UTC))
        try:
            self._store.put(await self._writer.report(mdep, status))
        except ClusterError as error:
            if error.status == 0:
                # No answer: it may be written. An Event of this name is told once, whatever becomes of the next attempt.
                self._will_tell(mdep.key, event)
            if error.status == 404:
                return
            raise
        self._reported[mdep.key] = asyncio.get_running_loop().time()
        self._will_tell(mdep.key, event)

    def _will_tell(self, key: Key, event: Json | None) -> None:
        if event is None:
            return
        untold = self._untold.setdefault(key, [])
        # A status that had to be tried again and again is one transition.
        if event["metadata"]["name"] not in [other["metadata"]["name"] for other in untold]:
            untold.append(event)

    def _may_wait(self, mdep: ModelDeployment, status: Json) -> bool:
        """A line of progress moves all the time: it is written at most once in PROGRESS_PACE seconds, everything else at once."""
        if {**status, "progress": None} != {**mdep.status, "progress": None}:
            return False
        wait = self._reported.get(mdep.key, float("-inf")) + PROGRESS_PACE - asyncio.get_running_loop().time()
        if wait > 0:
            self._queue.add_after(mdep.key, wait)
        return wait > 0

    async def _tell(self, key: Key) -> None:
        """An Event for each new state, after the status that it tells of. It is a courtesy: one that cannot be posted now stops nothing and
        is posted later; only the end of this process loses it."""
        while untold := self._untold.get(key):
            try:
                await self._writer.record(untold[0])
            except NotLeading:
                return
            except ClusterError as error:
                if error.status != 409 and not error.final:
                    self._queue.add_after(key, TELL_AGAIN)
                    return
                if error.status != 409:
                    logger.warning("%s: the Event %s is refused: %s", key, untold[0]["reason"], error)
            del untold[0]
        self._untold.pop(key, None)
