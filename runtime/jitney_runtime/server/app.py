"""The application: routes, the key, and the one place where errors become HTTP."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from jitney_runtime import __version__
from jitney_runtime.errors import EngineUnavailable, RequestError, Unauthenticated
from jitney_runtime.server.chat import chat_routes
from jitney_runtime.server.health import health_routes
from jitney_runtime.server.state import ServerState


def create_app(state: ServerState) -> FastAPI:
    app = FastAPI(title="Jitney runtime", version=__version__)
    app.include_router(health_routes(state))
    app.include_router(chat_routes(state))
    app.add_exception_handler(RequestError, _refused)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http)  # type: ignore[arg-type]

    @app.middleware("http")
    async def gate(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Requests for the model: nobody once the server leaves, nobody without the key."""
        if request.url.path.startswith("/v1/"):
            if state.refusing:
                return error_response(EngineUnavailable("this server is shutting down: send the request again"), {"Connection": "close"})
            if state.settings.api_key and not _authorized(request, state.settings.api_key):
                return error_response(Unauthenticated("the API key is missing or wrong: send it as Authorization: Bearer KEY"))
        return await call_next(request)

    return app


def _authorized(request: Request, key: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())


def error_body(message: str, kind: str, param: str | None, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: RequestError, headers: dict[str, str] | None = None) -> JSONResponse:
    """OpenAI's error shape, with Retry-After where trying again helps."""
    retry = getattr(error, "retry_after", None)
    headers = (headers or {}) | ({"Retry-After": str(retry)} if retry else {})
    return JSONResponse(error_body(error.message, error.kind, error.param, error.code), error.status, headers)


async def _refused(request: Request, error: RequestError) -> JSONResponse:
    return error_response(error)


async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """The first thing wrong, by the field's name."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    param = place or None
    message = str(first["msg"]).removeprefix("Value error, ")
    return JSONResponse(error_body(f"{place}: {message}" if place else message, "invalid_request_error", param, "invalid_request"), 400)


async def _http(request: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse(error_body(str(error.detail), "invalid_request_error", None, "not_found" if error.status_code == 404 else "invalid_request"), error.status_code)
