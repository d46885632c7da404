"""Asks serving pods how busy they are, for resources that scale with their load: `GET /metrics` of the runtime itself, no Prometheus."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from jitney_operator.api import Key, ModelDeployment
from jitney_operator.asking import Asking
from jitney_operator.autoscale import Scaler
from jitney_operator.observed import Observed, Pod
from jitney_operator.store import Store
from jitney_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

PERIOD = 2.0
REQUESTS = {"jitney_requests_running", "jitney_requests_waiting"}
_MOST = 1 << 20


class Load:
    """Main loop only. `replicas` is what the newest round came to; a change queues the resource."""

    def __init__(self, store: Store, queue: WorkQueue, leading: Callable[[], bool]) -> None:
        self._store, self._queue, self._leading = store, queue, leading
        self._scalers: dict[Key, tuple[str, Scaler]] = {}

    def replicas(self, mdep: ModelDeployment, observed: Observed) -> int | None:
        """For a resource that this scales, and None for others: what the load asked for last, at first what there is."""
        if not mdep.scales_itself or mdep.spec.autoscaling is None:
            self._scalers.pop(mdep.key, None)
            return None
        uid, scaler = self._scalers.get(mdep.key, ("", None))
        if scaler is None or uid != mdep.uid:
            scaler = Scaler(mdep.spec.autoscaling.clamp(current(observed, mdep)), mdep.wanted_at)
            self._scalers[mdep.key] = (mdep.uid, scaler)
        before = scaler.replicas
        if scaler.hear(mdep.wanted_at, mdep.spec.autoscaling, asyncio.get_running_loop().time()) > before:
            logger.info("%s: requests wait at a front door: from %d to %d replicas", mdep.key, before, scaler.replicas)
        return mdep.spec.autoscaling.clamp(scaler.replicas)

    async def run(self) -> None:
        """For ever."""
        async with Asking() as asking:
            while True:
                if self._leading():
                    await self._round(asking)
                else:
                    # Who leads meanwhile scales; what we saw before is no guide afterwards.
                    for key in self._scalers:
                        self._queue.add(key)
                    self._scalers.clear()
                await asyncio.sleep(PERIOD)

    async def _round(self, asking: Asking) -> None:
        scaling = [mdep for mdep in self._store.model_deployments() if mdep.key in self._scalers and not mdep.deleting]
        for key in self._scalers.keys() - {mdep.key for mdep in scaling}:
            del self._scalers[key]
        await asyncio.gather(*(self._look(asking, mdep) for mdep in scaling))

    async def _look(self, asking: Asking, mdep: ModelDeployment) -> None:
        pods = [pod for pod in self._store.observed(mdep).pods if pod.ready and pod.address]
        answers = await asyncio.gather(*(_load_of(asking, pod) for pod in pods))
        uid, scaler = self._scalers.get(mdep.key, ("", None))
        if mdep.spec.autoscaling is None or scaler is None or uid != mdep.uid:
            return
        known = [load for load in answers if load is not None]
        before, total = scaler.replicas, sum(known) if known else None
        if total is not None and len(known) < len(answers):
            # Who does not answer may be the busiest: what is known can only ask for more.
            total = max(total, before * mdep.spec.autoscaling.target)
        after = scaler.look(total, mdep.spec.autoscaling, asyncio.get_running_loop().time())
        if after != before:
            logger.info("%s: %s requests on %d pods: from %d to %d replicas", mdep.key, total, len(pods), before, after)
            self._queue.add(mdep.key)


def current(observed: Observed, mdep: ModelDeployment) -> int:
    """What runs now, none while it sleeps; a new resource, or one that was suspended, begins with what the spec says."""
    running = (observed.deployment or {}).get("spec", {}).get("replicas", 0)
    # Not there while it is suspended.
    scaled = mdep.status.get("autoscaling")
    if scaled is None:
        return int(running) or mdep.spec.replicas
    return int(running if observed.deployment else scaled["replicas"])


async def _load_of(asking: Asking, pod: Pod) -> float | None:
    body = await asking.ask(pod, "/metrics", _MOST)
    return None if body is None else read(body.decode(errors="replace"))


def read(text: str) -> float | None:
    """Requests running and waiting in a runtime's metrics; None when they do not say: the pod's image may be somebody's own."""
    try:
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples if sample.name in REQUESTS]
    except Exception:
        # The parser raises more than ValueError on what is no metrics, and one pod must not end the asking of all.
        return None
    total = sum(sample.value for sample in samples)
    return total if {sample.name for sample in samples} == REQUESTS and math.isfinite(total) and total >= 0 else None
