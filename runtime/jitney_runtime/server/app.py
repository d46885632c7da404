"""The application: routes, the gate before them, and the one place where errors become HTTP."""

from __future__ import annotations

import asyncio
import hmac
from contextlib import suppress

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from jitney_runtime import __version__
from jitney_runtime.errors import EngineUnavailable, RequestError, Unauthenticated
from jitney_runtime.server.error_shape import error_body, error_response
from jitney_runtime.server.health import health_routes
from jitney_runtime.server.routes import model_routes
from jitney_runtime.server.state import ServerState

# Seconds for a request that is refused and still being sent.
_HEARD_OUT = 1.0


def create_app(state: ServerState) -> FastAPI:
    app = FastAPI(title="Jitney runtime", version=__version__)
    app.include_router(health_routes(state))
    app.include_router(model_routes(state))
    app.add_exception_handler(RequestError, _refused)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(Gate, state=state)
    return app


class Gate:
    """Before the model's routes: nobody once the server leaves, nobody without the key. It counts who is in, for the drain.

    Plain ASGI: it stands in no stream's way.
    """

    def __init__(self, app: ASGIApp, state: ServerState) -> None:
        self._app = app
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
        elif refusal := self._refusal(scope):
            if self._state.refusing:
                await _hear_out(receive)
            await refusal(scope, receive, send)
        else:
            await self._let_in(scope, receive, send)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """From before the body is read to after the last byte of the answer."""
        self._state.in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._state.in_flight -= 1

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        if self._state.refusing:
            return error_response(EngineUnavailable("this server is shutting down: send the request again"), {"Connection": "close"})
        key = self._state.settings.api_key
        if key and not _authorized(Headers(scope=scope), key):
            return error_response(Unauthenticated("the API key is missing or wrong: send it as Authorization: Bearer KEY"))
        return None


async def _hear_out(receive: Receive) -> None:
    """What is still being sent: a connection that is closed before that is reset, and the client may lose the answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_HEARD_OUT):
            while (await receive()).get("more_body"):
                pass


def _authorized(headers: Headers, key: str) -> bool:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())


async def _refused(request: Request, error: RequestError) -> JSONResponse:
    return error_response(error)


async def _http(request: Request, error: HTTPException) -> JSONResponse:
    code = "not_found" if error.status_code == 404 else "invalid_request"
    return JSONResponse(error_body(str(error.detail), "invalid_request_error", None, code), error.status_code, error.headers)


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """A defect of ours. The server raises it again after this answer, so that it stands in the log."""
    return JSONResponse(error_body("the server failed on this request; its log says why", "server_error", None, "internal_error"), 500)
