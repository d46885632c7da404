"""Who acts: the holder of a Lease. Times of others are never compared; only how long a record has not changed, on our own clock."""

from __future__ import annotations

import asyncio
import logging
import time
from datetime import UTC, datetime

from jitney_operator.api import Json
from jitney_operator.cluster import Cluster
from jitney_operator.errors import ClusterError

logger = logging.getLogger(__name__)

DURATION, DEADLINE, PERIOD = 15.0, 10.0, 2.0
# A request that hangs must not use up the time in which the next one could renew.
PATIENCE = 4.0


class Lease:
    """`held` is set while this process may write. Losing it is noticed by the clock, also when no request gets through."""

    def __init__(self, cluster: Cluster, namespace: str, identity: str, name: str = "jitney-operator") -> None:
        self.held = asyncio.Event()
        self._cluster = cluster
        self._identity = identity
        self._namespace, self._name = namespace, name
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._seen: tuple[str, float] = ("", time.monotonic())
        self._renewed = 0.0

    @property
    def mine(self) -> bool:
        """Asked before every write: after a long stop the clock has moved and the flag has not."""
        return self.held.is_set() and time.monotonic() - self._renewed < DEADLINE

    async def run(self) -> None:
        """For ever: acquire, renew."""
        while True:
            try:
                async with asyncio.timeout(PATIENCE):
                    await self._turn()
            except (ClusterError, TimeoutError) as error:
                logger.warning("lease: %s", str(error) or f"no answer within {PATIENCE:.0f} s")
            if self.held.is_set() and not self.mine:
                logger.error("lease lost: it could not be renewed for %.0f s", DEADLINE)
                self.held.clear()
            await asyncio.sleep(PERIOD)

    async def release(self) -> None:
        """On leaving: the next one need not wait until the record is old."""
        if not self.held.is_set():
            return
        self.held.clear()
        while not await self._given_back():
            await asyncio.sleep(0.1)

    async def _given_back(self) -> bool:
        """False when a renewal that was still on its way came in between."""
        record = await self._cluster.get(f"{self._path}/{self._name}")
        if record and record.get("spec", {}).get("holderIdentity") == self._identity:
            record["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
            try:
                await self._cluster.request("PUT", f"{self._path}/{self._name}", record)
            except ClusterError as error:
                if error.status != 409:
                    raise
                return False
        return True

    async def _turn(self) -> None:
        started = time.monotonic()
        record = await self._cluster.get(f"{self._path}/{self._name}")
        if record is None:
            await self._cluster.request("POST", self._path, self._record())
        elif self._may_take(record):
            # resourceVersion travels along: of two candidates one gets 409.
            wish = self._record()
            await self._cluster.request("PUT", f"{self._path}/{self._name}", {**record, "spec": record["spec"] | wish["spec"]})
        else:
            self.held.clear()
            return
        self._renewed = started
        if not self.held.is_set():
            logger.info("lease acquired by %s", self._identity)
            self.held.set()

    def _may_take(self, record: Json) -> bool:
        # Somebody may have made it by hand, without a spec.
        record.setdefault("spec", {})
        holder, version = record["spec"].get("holderIdentity"), record["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, time.monotonic())
        return holder in (None, "", self._identity) or time.monotonic() - self._seen[1] > DURATION

    def _record(self) -> Json:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": self._identity, "leaseDurationSeconds": int(DURATION), "renewTime": now}
        metadata = {"name": self._name, "namespace": self._namespace}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
