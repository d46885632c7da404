"""Whoever waits for a launch in a cluster, and what becomes of it meanwhile. No server is asked; that is tests/integration's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jitney_gateway.errors import GatewayError
from jitney_gateway.kubernetes.backend import KubernetesBackend
from jitney_gateway.kubernetes.cluster import Cluster

FAILED = [("Ready", "False", "CrashLoop"), ("Stalled", "True", "CrashLoop")]


class Listed(Cluster):
    """What the server has of ModelDeployments, which the watch may not have told yet."""

    def __init__(self) -> None:
        super().__init__(None)
        self.bodies: list[dict[str, Any]] = []

    async def list(self, path: str, query: dict[str, str] | None = None) -> tuple[list[dict[str, Any]], str]:
        return self.bodies, "9"

    async def close(self) -> None:
        """Nothing was opened."""


@pytest.fixture
def cluster() -> Listed:
    return Listed()


@pytest.fixture
async def backend(cluster: Listed) -> AsyncIterator[KubernetesBackend]:
    """Told by the test, not by watches."""
    backend = KubernetesBackend(cluster, "home", ("home",))
    yield backend
    await backend.close()


def launched(uid: str, version: int, *conditions: tuple[str, str, str]) -> dict[str, Any]:
    metadata = {"name": "chat", "namespace": "home", "uid": uid, "resourceVersion": str(version), "generation": 1}
    entries = [{"type": kind, "status": status, "reason": reason, "message": "m"} for kind, status, reason in conditions]
    status = {"observedGeneration": 1, "conditions": entries}
    return {"metadata": metadata | {"creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"model": "a/b"}, "status": status}


async def waiting(backend: KubernetesBackend) -> asyncio.Task[None]:
    backend.sight.models.put(launched("first", 1))
    task = asyncio.create_task(backend.ready("chat"))
    await asyncio.sleep(0)
    return task


async def ended(task: asyncio.Task[None]) -> tuple[int, str, str]:
    async with asyncio.timeout(5):
        with pytest.raises(GatewayError) as told:
            await task
    return told.value.status, told.value.code, told.value.detail


async def test_another_launch_of_the_same_uid_is_not_waited_for(backend: KubernetesBackend):
    task = await waiting(backend)
    backend.sight.models.drop(launched("first", 2))
    backend.sight.models.put(launched("second", 3))
    assert await ended(task) == (499, "cancelled", "the launch of chat was cancelled")


async def test_a_failure_is_told_where_it_is_still_the_launchs_own(backend: KubernetesBackend, cluster: Listed):
    """Whoever is told so ends the model of that uid, so that it must not be another's."""
    cluster.bodies = [launched("first", 2, *FAILED)]
    task = await waiting(backend)
    backend.sight.models.put(cluster.bodies[0])
    assert await ended(task) == (500, "launch_failed", "CrashLoop: m")
    cluster.bodies = [launched("second", 4)]
    assert await ended(asyncio.create_task(backend.ready("chat"))) == (499, "cancelled", "the launch of chat was cancelled")


@pytest.mark.parametrize("reason", ["ScaledToZero", "Suspended"])
async def test_a_launch_that_was_put_to_rest_is_not_waited_for(backend: KubernetesBackend, reason: str):
    task = await waiting(backend)
    backend.sight.models.put(launched("first", 2, ("Ready", "True", reason), ("Available", "False", reason)))
    assert await ended(task) == (499, "cancelled", f"the launch of chat was cancelled: {reason}: m")
