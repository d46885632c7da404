"""Which resources somebody else scales: there the load that we see decides nothing.

That is a HorizontalPodAutoscaler, or a ScaledObject of KEDA. KEDA makes an HPA for each of these and takes it away while the ScaledObject
is paused, and the replicas are still KEDA's: so both kinds are watched, as long as some resource has `spec.autoscaling`. Who wrote
spec.replicas last cannot be read from the resource: the server keeps no record of it where nobody had set the field before.

A watch is never taken up where it broke off: whatever ends one, a listing follows. While none can be opened, nobody's replicas are decided.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from math import inf

from jitney_operator.api import GROUP, KIND, Json, Key
from jitney_operator.cluster import Cluster
from jitney_operator.errors import ClusterError
from jitney_operator.store import Store
from jitney_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

KINDS = (("/apis/autoscaling/v2", "horizontalpodautoscalers"), ("/apis/keda.sh/v1alpha1", "scaledobjects"))
# How long one watch lives, in seconds: what a living one did not tell is found by the listing that follows.
LIFE = 300
# Seconds before the next listing; a watch of LASTING seconds was a good one.
FIRST_PAUSE, LONGEST_PAUSE, LASTING = 0.5, 10.0, 30.0
# Seconds until it is asked again whether the server knows the kind. KEDA that is installed meanwhile makes HPAs, which are seen at once.
UNDEFINED_PAUSE = 30.0
# Seconds for which what was seen last still holds after a watch was lost.
GRACE = 15.0
# Seconds that the first look gives the first listings, so that it need not be corrected.
MOMENT = 2.0
FORBIDDEN, NOT_FOUND = 403, 404


class Autoscalers:
    """Main loop only. A change queues the resource."""

    def __init__(self, store: Store, queue: WorkQueue, cluster: Cluster, namespaces: tuple[str, ...], leading: Callable[[], bool]) -> None:
        self._store, self._queue, self._leading = store, queue, leading
        self._watches = [
            Watch(cluster, group, plural, namespace, self._look_at, self._look_around)
            for group, plural in KINDS
            for namespace in namespaces or (None,)
        ]
        self._wanted = asyncio.Event()
        self._patience: float | None = None

    def scales(self, key: Key) -> bool:
        """As last seen, which stays while nothing newer can be seen."""
        return any(key in watch.targets for watch in self._watches)

    def doubt(self, key: Key) -> str:
        """Why it cannot be told who scales this one, in a sentence; empty where it is known. In doubt nothing may be decided."""
        return next((watch.doubt for watch in self._watches if watch.covers(key) and not watch.known), "")

    async def fresh(self) -> None:
        """Before a decision: from now on it is watched. No worker waits long for it, nor for it twice."""
        self._wanted.set()
        if self._patience is None:
            self._patience = asyncio.get_running_loop().time() + MOMENT
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._patience):
                for watch in self._watches:
                    await watch.answered.wait()

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            for watch in self._watches:
                group.create_task(self._keep(watch))

    async def _keep(self, watch: Watch) -> None:
        while True:
            while not self._needed():
                watch.forget()
                self._patience = None
                self._wanted.clear()
                await self._wanted.wait()
            await watch.follow()

    def _needed(self) -> bool:
        return self._leading() and any(mdep.spec.autoscaling for mdep in self._store.model_deployments())

    def _look_at(self, keys: set[Key]) -> None:
        for key in keys:
            self._queue.add(key)

    def _look_around(self, watch: Watch) -> None:
        """They have waited for this, or must wait from now on."""
        self._look_at({mdep.key for mdep in self._store.model_deployments() if mdep.spec.autoscaling and watch.covers(mdep.key)})


class Watch:
    """One kind, in one namespace or in all (None). `targets` are the resources that its objects scale. `changed` is called with those for
    which that is new, `turned` when `known` has become something else."""

    def __init__(
        self,
        cluster: Cluster,
        group: str,
        plural: str,
        namespace: str | None,
        changed: Callable[[set[Key]], None],
        turned: Callable[[Watch], None],
    ) -> None:
        self._cluster, self._group, self._plural, self._namespace = cluster, group, plural, namespace
        self._path = f"{group}/namespaces/{namespace}/{plural}" if namespace else f"{group}/{plural}"
        self._changed, self._turned = changed, turned
        self._targets: dict[tuple[str, str], Key] = {}
        self.targets: frozenset[Key] = frozenset()
        self._pause = FIRST_PAUSE
        self.answered = asyncio.Event()
        self.forget()

    def forget(self) -> None:
        """Nobody keeps it up to date from now on; what it has seen may be wrong."""
        self._holds_until, self._said, self._complaint = -inf, False, -1
        self.doubt = f"it is not known yet which {self._plural} there are"
        self.answered.clear()

    def covers(self, key: Key) -> bool:
        return self._namespace in (None, key.namespace)

    @property
    def known(self) -> bool:
        return asyncio.get_running_loop().time() < self._holds_until

    async def follow(self) -> None:
        """One listing, and a watch until that ends, however it does; then a pause, longer each time that the watch did not last."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        try:
            pause = await self._follow()
        except ClusterError as error:
            pause = self._lose(error)
        except Exception:
            # What the server sends is not in our hands, and one odd object must not end the sight of all.
            logger.exception("%s: unexpected", self._path)
            pause = self._lose(ClusterError(0, "the server sends what cannot be read"))
        self.answered.set()
        if loop.time() - begun > LASTING:
            self._pause = FIRST_PAUSE
        await asyncio.sleep((pause or self._pause) * random.uniform(0.8, 1.2))
        self._pause = min(LONGEST_PAUSE, self._pause * 2)

    async def _follow(self) -> float:
        """Seconds until the next listing, 0 as usual."""
        try:
            items, version = await self._cluster.everything(self._path)
            self._replace(items)
            async with self._cluster.watch(self._path, version, random.randint(LIFE * 4 // 5, LIFE)) as events:
                # Not before: what is listed and cannot be watched is old at once.
                self._holds(inf)
                self._complaint = -1
                async for event in events:
                    version = self._receive(event, version)
        except ClusterError as error:
            if error.status not in (FORBIDDEN, NOT_FOUND) or await self._cluster.defines(self._group, self._plural):
                raise
            # Nobody can have made one.
            self._replace(())
            self._holds(inf)
            return UNDEFINED_PAUSE
        self._holds(asyncio.get_running_loop().time() + GRACE)
        return 0.0

    def _receive(self, event: Json, version: int) -> int:
        """The version that is known afterwards."""
        body = event["object"]
        if event["type"] == "ERROR":
            raise ClusterError(body.get("code", 0), f"the watch ended: {body.get('message') or body.get('reason')}")
        seen = int(body["metadata"]["resourceVersion"])
        # Told again, as something in between may do: an old event must not bring back what is gone.
        if event["type"] != "BOOKMARK" and seen > version:
            self._put(body, gone=event["type"] == "DELETED")
        return max(seen, version)

    def _put(self, body: Json, gone: bool) -> None:
        key = None if gone else target(body)
        self._targets.pop(_name(body), None)
        if key:
            self._targets[_name(body)] = key
        self._settle()

    def _replace(self, items: tuple[Json, ...]) -> None:
        self._targets = {_name(item): key for item in items if (key := target(item))}
        self._settle()

    def _settle(self) -> None:
        """Two may scale one resource: it is nobody's when the last of them is gone."""
        before, self.targets = self.targets, frozenset(self._targets.values())
        if changed := set(before ^ self.targets):
            self._changed(changed)

    def _lose(self, error: ClusterError) -> float:
        """What was seen last holds for a while, unless it may not be seen any more."""
        now = asyncio.get_running_loop().time()
        # Told once, not each time that it is tried again.
        if error.status != self._complaint:
            logger.warning("%s cannot be watched: %s", self._path, error)
        self._complaint = error.status
        refused = error.status == FORBIDDEN
        advice = f"; grant the operator list and watch of {self._plural} in {self._group.split('/')[2]}" if refused else ""
        self.doubt = f"whether an autoscaler sets the replicas cannot be told: {error.message}{advice}"
        self._holds(-inf if refused else min(self._holds_until, now + GRACE))
        return LONGEST_PAUSE if refused else 0.0

    def _holds(self, until: float) -> None:
        """Looked at anew where that makes a difference: `known` ends by itself too, which the next failure notices."""
        self._holds_until = until
        if self._said != self.known:
            self._said = self.known
            self._turned(self)


def target(item: Json) -> Key | None:
    """The resource that it scales, if that is one of ours. An HPA and a ScaledObject say it in the same field."""
    reference = item.get("spec", {}).get("scaleTargetRef", {})
    ours = reference.get("kind") == KIND and str(reference.get("apiVersion", "")).partition("/")[0] == GROUP
    return Key(item["metadata"]["namespace"], reference["name"]) if ours else None


def _name(item: Json) -> tuple[str, str]:
    return item["metadata"]["namespace"], item["metadata"]["name"]
