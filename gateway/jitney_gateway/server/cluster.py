"""What Xinference's clients ask of its cluster. The front door is the supervisor there; machines that run models by its own hand are the
workers, and in a Kubernetes cluster, whose nodes it does not see, there are none."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request

from jitney_gateway.backend import Backend
from jitney_gateway.machine import Machine


def routes(backend: Backend, keyed: bool) -> APIRouter:
    router = APIRouter()
    begun = time.time()

    @router.get("/v1/cluster/auth")
    async def auth() -> dict[str, bool]:
        """Whether a key is needed: Xinference's clients send theirs only then."""
        return {"auth": keyed}

    @router.get("/v1/cluster/version")
    async def versions() -> dict[str, str | None]:
        return {"version": version("jitney"), "full-revisionid": None}

    @router.get("/v1/cluster/info")
    async def info(detailed: bool = False) -> list[dict[str, Any]]:
        workers = [machine.told("Worker", detailed) for machine in backend.machines()]
        return [Machine.here().told("Supervisor", detailed), *workers]

    @router.get("/v1/cluster/devices")
    async def devices() -> int:
        return sum(machine.gpus for machine in backend.machines())

    @router.get("/v1/workers")
    async def workers() -> list[dict[str, Any]]:
        models = {model.uid: model.describe() for model in await backend.models()}
        return [{"work-ip": machine.address, "models": models} for machine in backend.machines()]

    @router.get("/v1/supervisor")
    async def supervisor(request: Request) -> dict[str, str]:
        return {"supervisor_ip": request.url.netloc}

    @router.get("/v1/address")
    async def address(request: Request) -> str:
        return request.url.netloc

    @router.get("/status")
    async def status() -> dict[str, Any]:
        return {"uptime": int(time.time() - begun), "workers": {}}

    return router
