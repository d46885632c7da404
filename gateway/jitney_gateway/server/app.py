"""The application: routes, errors, and the life of what stands behind them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from jitney_gateway.backend import Backend
from jitney_gateway.catalogue import Catalogue
from jitney_gateway.errors import GatewayError
from jitney_gateway.routing.bounds import Bounds
from jitney_gateway.server import chatting, launching, logs

logger = logging.getLogger(__name__)


def make(backend: Backend, catalogue: Catalogue, bounds: Bounds | None = None) -> FastAPI:
    """The backend is started and stopped by whoever owns it."""
    data = chatting.Data(backend, bounds or Bounds())

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await data.start()
        yield
        await data.stop()

    app = FastAPI(title="Jitney", version=version("jitney"), lifespan=life)
    app.include_router(launching.routes(backend, catalogue))
    app.include_router(chatting.routes(data))
    app.include_router(logs.routes(backend))
    app.add_exception_handler(GatewayError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)

    @app.get("/livez")
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        """Not before it knows its models, and not while it leaves."""
        words = backend.unready()
        return JSONResponse({"status": words or "ok"}, 503 if words else 200)

    return app


async def _told(_: Request, error: Exception) -> JSONResponse:
    """Xinference's clients read `detail`, OpenAI's read `error`: both are there."""
    assert isinstance(error, GatewayError)
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    body = {"detail": error.detail, "error": {"message": error.detail, "type": kind, "param": None, "code": error.code or None}}
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else None
    return JSONResponse(body, error.status, headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    return await _told(request, GatewayError(422, f"{place}: {first['msg']}", code="invalid_value"))
