"""Which resources the autoscalers of one kind scale, kept up to date by a watch.

It is never taken up where it broke off: whatever ends one, a listing follows.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from math import inf

from jitney_operator.api import GROUP, KIND, Json, Key
from jitney_operator.cluster import Cluster
from jitney_operator.errors import ClusterError

logger = logging.getLogger(__name__)

# How long one watch lives, in seconds. That the server ends it is its sign of life; what it did not tell, the next listing does.
LIFE = 60
# Seconds before the next listing; a watch that was open for LASTING seconds was a good one.
FIRST_PAUSE, LONGEST_PAUSE, LASTING = 0.5, 10.0, 30.0
# Seconds until it is asked again whether the server knows the kind. KEDA that is installed meanwhile makes HPAs, which are seen at once.
UNDEFINED_PAUSE = 30.0
# Seconds for which what was seen last still holds after a watch has ended.
GRACE = 15.0

Changed = Callable[[frozenset[Key]], None]
Turned = Callable[["Watch"], None]


class Watch:
    """One kind, in one namespace or in all (None). `targets` are the resources that its objects scale, as last seen; `doubt` says in a
    sentence why that may be wrong, and is empty while it is not. `changed` is called with the resources for which the first is new,
    `turned` when the second is. `answered` is set once the server has let it watch, or has not."""

    def __init__(self, cluster: Cluster, group: str, plural: str, namespace: str | None, changed: Changed, turned: Turned) -> None:
        self._cluster, self._group, self._plural, self._namespace = cluster, group, plural, namespace
        self._path = f"{group}/namespaces/{namespace}/{plural}" if namespace else f"{group}/{plural}"
        self._changed, self._turned = changed, turned
        self._targets: dict[tuple[str, str], Key] = {}
        self.targets: frozenset[Key] = frozenset()
        self.doubt = self._why = f"it is not known yet which {plural} there are"
        self.answered = asyncio.Event()
        self._complaint: int | None = None
        self._lapse: asyncio.TimerHandle | None = None
        self._pause, self._opened = FIRST_PAUSE, inf

    def covers(self, key: Key) -> bool:
        return self._namespace in (None, key.namespace)

    async def follow(self) -> None:
        """One listing, and a watch until that ends, however it does; then a pause, longer each time that the watch did not last."""
        self._opened = inf
        try:
            pause = await self._follow()
        except ClusterError as error:
            pause = self._lose(error)
        except Exception as defect:
            # What the server sends is not in our hands, and one odd object must not end the sight of all.
            pause = self._lose(ClusterError(200, "the server sends what cannot be read"), defect)
        if asyncio.get_running_loop().time() - self._opened > LASTING:
            self._pause = FIRST_PAUSE
        await asyncio.sleep((pause or self._pause) * random.uniform(0.8, 1.2))
        self._pause = min(LONGEST_PAUSE, self._pause * 2)

    async def _follow(self) -> float:
        """Seconds until the next listing, 0 as usual."""
        try:
            items, version = await self._cluster.everything(self._path)
            self._replace({_name(item): key for item in items if (key := target(item))})
            async with self._cluster.watch(self._path, version, random.randint(LIFE * 4 // 5, LIFE)) as events:
                # Not before: what is listed and cannot be watched is old at once.
                self._trust()
                self._opened = asyncio.get_running_loop().time()
                async for event in events:
                    version = self._receive(event, version)
        except ClusterError as error:
            if error.status not in (403, 404) or await self._cluster.defines(self._group, self._plural):
                raise
            # Nobody can have made one.
            self._replace({})
            self._trust()
            return UNDEFINED_PAUSE
        self._age(GRACE)
        return 0.0

    def _receive(self, event: Json, version: int) -> int:
        """The version that is known afterwards."""
        body = event["object"]
        if event["type"] == "ERROR":
            raise ClusterError(body.get("code", 0), f"the watch ended: {body.get('message') or body.get('reason')}")
        seen = int(body["metadata"]["resourceVersion"])
        # Told again, as something in between may do: an old event must not bring back what is gone.
        if seen <= version:
            return version
        key = None if event["type"] == "DELETED" else target(body)
        others = {name: of for name, of in self._targets.items() if name != _name(body)}
        self._replace({**others, _name(body): key} if key else others)
        return seen

    def _replace(self, targets: dict[tuple[str, str], Key]) -> None:
        """Two may scale one resource: it is nobody's when the last of them is gone."""
        self._targets = targets
        before, self.targets = self.targets, frozenset(targets.values())
        if changed := before ^ self.targets:
            self._changed(changed)

    def _trust(self) -> None:
        self._complaint, self._why = None, f"the watch of {self._plural} has ended and none could be opened since"
        self._say("")

    def _lose(self, error: ClusterError, defect: Exception | None = None) -> float:
        """Seconds until the next listing, 0 as usual. What was seen last holds for a while, unless it may not be seen any more."""
        refused = error.status == 403
        # Told once, not each time that it is tried again.
        if error.status != self._complaint:
            self._complaint = error.status
            # No warning: the status of who uses autoscaling has it, and it concerns nobody else.
            logger.info("%s cannot be watched: %s", self._path, error, exc_info=defect)
            advice = f"; grant the operator list and watch of {self._plural} in {self._group.split('/')[2]}" if refused else ""
            self._why = f"whether an autoscaler sets the replicas cannot be told: {error.message}{advice}"
        self._age(0.0 if refused else GRACE)
        return LONGEST_PAUSE if refused else 0.0

    def _age(self, grace: float) -> None:
        """What was seen is in doubt after these seconds, unless it is already."""
        if self.doubt or not grace:
            self._say(self._why)
        elif self._lapse is None:
            self._lapse = asyncio.get_running_loop().call_later(grace, lambda: self._say(self._why))

    def _say(self, doubt: str) -> None:
        if self._lapse:
            self._lapse.cancel()
            self._lapse = None
        self.answered.set()
        if doubt != self.doubt:
            self.doubt = doubt
            self._turned(self)


def target(item: Json) -> Key | None:
    """The resource that it scales, if that is one of ours. An HPA and a ScaledObject say it in the same field."""
    reference = (item.get("spec") or {}).get("scaleTargetRef") or {}
    ours = reference.get("kind") == KIND and str(reference.get("apiVersion", "")).partition("/")[0] == GROUP
    return Key(item["metadata"]["namespace"], reference["name"]) if ours and reference.get("name") else None


def _name(item: Json) -> tuple[str, str]:
    return item["metadata"]["namespace"], item["metadata"]["name"]
