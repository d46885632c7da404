"""Every model with its status, reasons and live load in one answer: what the page polls, and one look at the backend for all.

Load comes from the runtimes' own metrics, as totals since each began; whoever asks twice can make rates of them.
"""

from __future__ import annotations

import asyncio
import math
import time
from importlib.metadata import version
from typing import Any

import aiohttp
from fastapi import APIRouter, Request
from prometheus_client.parser import text_string_to_metric_families

from jitney_gateway.backend import Backend
from jitney_gateway.catalogue import Catalogue
from jitney_gateway.launch import Launch
from jitney_gateway.model import READY, Model, Replica, idle
from jitney_gateway.server import wanted, wire
from jitney_gateway.server.body import json_body
from jitney_gateway.server.registering import resolved
from jitney_gateway.server.visit import current

Json = dict[str, Any]

# A replica that takes longer is told without its load.
LOAD_SECONDS = 1.5
# However many pages look, the models are asked this often at most.
FRESH_SECONDS = 0.9
# Of a runtime's metrics (its wire contract), by the name that the answer has for it. Seconds and tokens.
FIGURES = {
    "jitney_requests_running": "running",
    "jitney_requests_waiting": "waiting",
    "jitney_kv_cache_usage_ratio": "kv_cache",
    "jitney_generation_tokens_total": "generated",
    "jitney_time_to_first_token_seconds_sum": "first_token_seconds",
    "jitney_time_to_first_token_seconds_count": "first_token_count",
}


class Overview:
    """Lives on the event loop. What was seen is shared by all who ask within FRESH_SECONDS."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._looking: asyncio.Task[Json] | None = None
        self._begun = 0.0
        self._version = version("jitney")

    async def told(self) -> Json:
        now = asyncio.get_running_loop().time()
        if self._looking is None or now - self._begun > FRESH_SECONDS:
            self._looking, self._begun = asyncio.create_task(self._look()), now
        # One caller that leaves must not take the others' answer with him.
        return await asyncio.shield(self._looking)

    async def _look(self) -> Json:
        models = await self._backend.models()
        ready = {replica.address for model in models for replica in model.replicas if replica.status == READY}
        async with wire.session() as client:
            found = dict(zip(ready, await asyncio.gather(*(load_of(client, address) for address in ready)), strict=True))
        machines = [{"memory": machine.memory, "free": machine.free, "gpus": machine.gpus} for machine in self._backend.machines()]
        return {"at": time.time(), "version": self._version, "machines": machines, "models": [entry(model, found) for model in models]}


def entry(model: Model, loads: dict[str, Json | None]) -> Json:
    launch = model.launch
    return {
        "uid": model.uid,
        "name": launch.name,
        "size": launch.size,
        "quantization": launch.quantization,
        "repository": model.repository,
        "context": model.context,
        "max_num_seqs": launch.max_num_seqs,
        "replicas_wanted": launch.replicas,
        "status": model.status,
        "idle": idle(model.status, model.message),
        "stage": model.stage,
        "progress": model.progress,
        "message": model.message,
        "created": model.created,
        "foreign": model.foreign,
        "replicas": [replica_entry(replica, loads.get(replica.address)) for replica in model.replicas],
    }


def replica_entry(replica: Replica, load: Json | None) -> Json:
    return {"id": replica.id, "status": replica.status, "message": replica.message, "load": load}


async def load_of(client: aiohttp.ClientSession, address: str) -> Json | None:
    """None where the runtime does not say in time, or in the wrong words."""
    try:
        async with asyncio.timeout(LOAD_SECONDS), client.get(f"{address}/metrics") as response:
            return figures(await response.text()) if response.status == 200 else None
    except Exception:
        # Whatever one runtime writes there, and its parser makes of it, the other models are told of.
        return None


def figures(text: str) -> Json:
    """Out of Prometheus' text form; the parser's own errors where it is none. Summed where a name stands more than once."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            # Infinity and NaN have no form in JSON.
            if sample.name in FIGURES and math.isfinite(sample.value):
                name = FIGURES[sample.name]
                found[name] = found.get(name, 0.0) + sample.value
    return found


def routes(backend: Backend, catalogue: Catalogue, everything: Backend) -> APIRouter:
    """`everything` is asked once for all who look; each is told of what he may use."""
    router, overview = APIRouter(), Overview(everything)

    @router.get("/v1/overview")
    async def told() -> Json:
        seen = await overview.told()
        return {**seen, "models": [model for model in seen["models"] if current.get().may_use(model["uid"])]}

    @router.post("/v1/models/fit", openapi_extra=wanted.LAUNCH)
    async def fit(request: Request) -> dict[str, str]:
        """The body is that of a launch, and nothing is started."""
        launch = await resolved(Launch.parse(await json_body(request)), backend, catalogue)
        if not launch.model_path and "/" not in launch.name:
            # In a cluster it is the operator who looks it up, and nobody has asked it yet.
            catalogue.find(launch.name, launch.size)
        return (await backend.fit(launch)).told()

    return router
