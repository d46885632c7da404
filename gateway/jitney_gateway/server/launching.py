"""Launch, list, describe, terminate: the routes of Xinference's RESTful client. Errors are `{"detail": "..."}`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from jitney_gateway.backend import Backend
from jitney_gateway.catalogue import Catalogue
from jitney_gateway.errors import GatewayError
from jitney_gateway.launch import Launch
from jitney_gateway.model import Model, replica_status, written_size
from jitney_gateway.server.body import json_body


def routes(backend: Backend, catalogue: Catalogue) -> APIRouter:
    """All of them, in an order in which no path is taken for a uid."""
    router = APIRouter()
    router.include_router(_telling(backend, catalogue))
    router.include_router(_changing(backend))
    return router


async def _known(backend: Backend, uid: str) -> Model:
    """GatewayError (400) where there is none: what Xinference answers here, and 404 for a chat."""
    model = await backend.find(uid)
    if model is None:
        raise GatewayError(400, f"Model not found in the model list, uid: {uid}", code="model_not_found")
    return model


def _changing(backend: Backend) -> APIRouter:
    """Launch, and the two ways to end a model."""
    router = APIRouter()

    @router.post("/v1/models")
    async def launch(request: Request, wait_ready: bool = True) -> dict[str, str]:
        uid = await backend.launch(Launch.parse(await json_body(request)))
        if wait_ready:
            try:
                await backend.ready(uid)
            except GatewayError as error:
                if error.code == "launch_failed":
                    # The caller has the reason, and a model that never came is not left in the list.
                    await backend.terminate(uid)
                raise
        return {"model_uid": uid}

    @router.delete("/v1/models/{uid}")
    @router.post("/v1/models/{uid}/cancel")
    async def terminate(uid: str) -> JSONResponse:
        await _known(backend, uid)
        await backend.terminate(uid)
        return JSONResponse(None)

    return router


def _telling(backend: Backend, catalogue: Catalogue) -> APIRouter:
    """What is there, and what there could be."""
    router = APIRouter()

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model.listed() for model in await backend.models()]}

    @router.get("/v1/models/instances")
    async def instances(
        model_name: Annotated[str | None, Query()] = None, model_uid: Annotated[str | None, Query()] = None
    ) -> list[dict[str, Any]]:
        found = await backend.models()
        return [
            model.instance()
            for model in found
            if (model_name is None or model.launch.name == model_name) and (model_uid is None or model.uid == model_uid)
        ]

    @router.get("/v1/models/{uid}")
    async def describe(uid: str) -> dict[str, Any]:
        return (await _known(backend, uid)).describe()

    @router.get("/v1/models/{uid}/replicas")
    async def replicas(uid: str) -> list[dict[str, Any]]:
        model = await _known(backend, uid)
        return [replica_status(model, replica) for replica in model.replicas]

    @router.get("/v1/models/{uid}/progress")
    async def progress(uid: str) -> dict[str, Any]:
        model = await backend.find(uid)
        return model.progressed() if model else {"progress": 0.0, "stage": "pending", "download_files": [], "replicas": []}

    @router.get("/v1/engines/{name}")
    @router.get("/v1/engines/LLM/{name}")
    async def engines(name: str) -> dict[str, list[dict[str, Any]]]:
        entries = catalogue.of(name)
        if not entries:
            raise GatewayError(400, f"Model not found, name: {name}", code="model_not_found")
        return {"Transformers": [_offer(entry.name, entry.size) for entry in entries]}

    return router


def _offer(name: str, size: str) -> dict[str, Any]:
    return {"model_name": name, "model_format": "pytorch", "model_size_in_billions": written_size(size), "quantizations": ["none"]}
