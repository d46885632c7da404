"""/livez, /readyz, /metrics: served from the first second, never behind a key."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from jitney_runtime.server.state import ServerState


def health_routes(state: ServerState) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/livez")
    async def livez() -> JSONResponse:
        return JSONResponse({"status": "alive" if state.alive else "dead"}, 200 if state.alive else 503)

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        ready, body = state.readiness()
        return JSONResponse(body, 200 if ready else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(state.metrics.render(), media_type=state.metrics.content_type)

    return router
