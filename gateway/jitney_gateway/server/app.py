"""The application: routes, errors, and the life of what stands behind them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from jitney_gateway.backend import Backend
from jitney_gateway.catalogue import Catalogue
from jitney_gateway.errors import GatewayError
from jitney_gateway.routing.bounds import Bounds
from jitney_gateway.server import chatting, launching, logs, metrics, overview, page, told
from jitney_gateway.server.guard import Guard, Terms
from jitney_gateway.server.keyring import Keyring
from jitney_gateway.server.limits import Limits
from jitney_gateway.server.peers import Peers
from jitney_gateway.server.permitted import Permitted
from jitney_gateway.server.questions import Questions

# Of a path that was asked for, in words.
LONGEST_TOLD = 200


def make(
    backend: Backend,
    catalogue: Catalogue,
    bounds: Bounds | None = None,
    terms: Terms | None = None,
    peers: Peers | None = None,
    questions: Questions | None = None,
) -> FastAPI:
    """The backend is started and stopped by whoever owns it, who may also end all `questions`."""
    peers = peers or Peers()
    terms, told_metrics, limits = terms or Terms(), metrics.Metrics(), Limits(time.monotonic, peers.named)
    seen, questions = Permitted(backend), questions or Questions(time.monotonic)
    data = chatting.Data(seen, bounds or Bounds(), limits, told_metrics, peers, questions)
    _follow(told_metrics, data, limits, terms.keyring)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await data.start()
        async with _kept(terms.keyring):
            yield
        await data.stop()

    # Its own pages about the API would load scripts from elsewhere; the document that they show is /openapi.json.
    app = FastAPI(title="Jitney", version=version("jitney"), lifespan=life, docs_url=None, redoc_url=None)
    # Routes are looked through in their order, and what is asked most comes first.
    app.include_router(chatting.routes(data))
    app.include_router(launching.routes(seen, catalogue, terms.keyring is not None, questions))
    app.include_router(logs.routes(seen))
    app.include_router(metrics.routes(told_metrics))
    app.include_router(overview.routes(seen, catalogue, backend))
    app.include_router(page.routes())
    app.add_exception_handler(GatewayError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unrouted)

    @app.get("/livez")
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def ready() -> JSONResponse:
        """Not before it knows its models, and not while it leaves."""
        words = backend.unready()
        return JSONResponse({"status": words or "ok"}, 503 if words else 200)

    # The last one that is added is the first that a request meets.
    app.add_middleware(Guard, terms=terms, limits=limits, metrics=told_metrics)
    return app


def _follow(told_metrics: metrics.Metrics, data: chatting.Data, limits: Limits, keyring: Keyring | None) -> None:
    told_metrics.follow("jitney_gateway_requests_in_flight", "chats and completions under way, held ones too", lambda: data.in_flight)
    told_metrics.follow("jitney_gateway_requests_held", "requests that wait for a replica of their model", lambda: data.held)
    if keyring:
        told_metrics.follow("jitney_gateway_front_doors", "front doors that share each key's limits", lambda: limits.doors)
        told_metrics.follow(
            "jitney_gateway_keys_current", "1 while the keys in force are those of the file as it is", lambda: keyring.current
        )
        told_metrics.follow(
            "jitney_gateway_keys_failures", "times that a changed file of keys could not be taken", lambda: keyring.failures
        )


@asynccontextmanager
async def _kept(keyring: Keyring | None) -> AsyncIterator[None]:
    """The keys follow their file."""
    keeping = asyncio.create_task(keyring.keep(), name="keys") if keyring else None
    yield
    if keeping:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping


async def _told(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, GatewayError)
    return told.answer(error)


async def _unrouted(request: Request, error: Exception) -> JSONResponse:
    """No route has this path, or none has it for this method; Allow has those it is for."""
    assert isinstance(error, HTTPException)
    words = f"{error.detail}: {request.method} {request.url.path[:LONGEST_TOLD]} is nothing that is asked here; /openapi.json lists what is"
    code = "method_not_allowed" if error.status_code == 405 else "unknown_url"
    return told.answer(GatewayError(error.status_code, words, code=code), error.headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    return await _told(request, GatewayError(422, f"{place}: {first['msg']}", code="invalid_value"))
