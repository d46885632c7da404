"""Replicas of a launched model: told, added, and ended one at a time."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from jitney_gateway.backend import Backend
from jitney_gateway.errors import GatewayError, bad_field
from jitney_gateway.model import Model, replica_status
from jitney_gateway.server import audit, wanted
from jitney_gateway.server.body import parsed, read
from jitney_gateway.server.uids import by_uid

MOST = 1000
MEANINGLESS = {
    "replica_config": "replicas are all alike",
    "model_engine": "the engine is transformers for every replica",
    "n_gpu": "replicas are all alike, on what the model was launched on",
}


def routes(backend: Backend) -> APIRouter:
    router = by_uid()

    @router.get("/v1/models/{uid:uid}/replicas")
    async def replicas(uid: str) -> list[dict[str, Any]]:
        model = await known(backend, uid)
        return [replica_status(model, replica) for replica in model.replicas]

    @router.post("/v1/models/{uid:uid}/replicas", openapi_extra=wanted.REPLICAS)
    async def add(uid: str, request: Request) -> dict[str, Any]:
        """Answers once they are asked for; how they come is told by the model's status and its replicas."""
        with audit.line("add_replicas", uid) as line:
            count = line["count"] = _count(await read(request))
            await known(backend, uid)
            numbers = await backend.add_replicas(uid, count)
        added = [{"replica_id": number, "replica_model_uid": f"{uid}-{number}", "worker_address": None} for number in numbers]
        return added[0] if count == 1 else {"replica": count, "replicas": added}

    @router.delete("/v1/models/{uid:uid}/replicas/{replica}")
    async def remove(uid: str, replica: str) -> dict[str, int]:
        with audit.line("remove_replica", uid, replica=replica):
            await known(backend, uid)
            left = await backend.remove_replica(uid, replica)
        if not left and await backend.find(uid) is None:
            # On one machine the last one ends the model.
            with audit.line("terminate", uid, why="last_replica"):
                pass
        return {"remaining_replicas": left}

    return router


async def known(backend: Backend, uid: str) -> Model:
    """GatewayError (400) where there is none: what Xinference answers here, and 404 for a chat."""
    model = await backend.find(uid)
    if model is None:
        raise GatewayError(400, f"Model not found in the model list, uid: {uid}", code="model_not_found")
    return model


def _count(body: bytes) -> int:
    """How many more; one where nothing is said."""
    asked = parsed(body or b"{}")
    if not isinstance(asked, dict):
        raise GatewayError(400, "the body must be a JSON object", code="invalid_value")
    given = {name: value for name, value in asked.items() if value is not None}
    count = given.pop("replica", 1)
    if type(count) is not int or not 1 <= count <= MOST:
        raise bad_field("replica", f"must be a whole number from 1 to {MOST}, not {count!r}")
    if str(given.get("model_engine", "")).lower() == "transformers":
        del given["model_engine"]
    if given.get("n_gpu") == "auto":
        del given["n_gpu"]
    for key in given:
        raise bad_field(key, MEANINGLESS.get(key, "this is no parameter of a replica"))
    return count
