"""The data path: a chat goes to a replica of its model and comes back byte for byte, as it is made.

A client that goes away ends the question to the runtime, which frees its row. `request_id` is the name by which Xinference's
abort_request finds a chat.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from jitney_gateway.backend import Backend
from jitney_gateway.errors import GatewayError, unknown_model
from jitney_gateway.model import ERROR, READY, Model, Replica
from jitney_gateway.server.body import json_body

# How long a client may be asked to wait while a model starts.
STARTING_SECONDS = 5
# Of the runtime's answer; connection headers are ours.
KEPT = ("content-type", "retry-after", "x-request-id", "cache-control")


class Data:
    """The questions under way. Lives on the event loop."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._asked: dict[tuple[str, str], asyncio.Event] = {}
        self._turns = itertools.count()
        self._client: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        # An answer takes as long as it takes; that nobody listens any more is noticed by the client's connection.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self._client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)

    async def stop(self) -> None:
        if self._client:
            await self._client.close()

    async def chat(self, request: Request, path: str) -> Response:
        body = await json_body(request)
        model = await self._model(body)
        name = str(body.pop("request_id", "") or "")
        replica = self._choose(model)
        answer = await self._ask(f"{replica.address}{path}", body, request)
        headers = {header: answer.headers[header] for header in KEPT if header in answer.headers}
        aborted = asyncio.Event()
        if name:
            self._asked[model.uid, name] = aborted
        pieces = self._pieces(answer, aborted, (model.uid, name))
        return StreamingResponse(pieces, answer.status, headers)

    async def _model(self, body: Any) -> Model:
        if not isinstance(body, dict) or not isinstance(body.get("model"), str):
            raise GatewayError(400, "model: give the uid of a launched model", code="invalid_value")
        model = await self._backend.find(body["model"])
        if model is None:
            raise unknown_model(body["model"], [model.uid for model in await self._backend.models()])
        return model

    def _choose(self, model: Model) -> Replica:
        """One after the other among those that are ready."""
        ready = [replica for replica in model.replicas if replica.status == READY]
        if not ready and model.status == ERROR:
            raise GatewayError(503, f"{model.uid} cannot be served: {model.message}", code="model_failed")
        if not ready:
            raise GatewayError(503, f"{model.uid} is starting: {model.message}", code="model_starting", retry_after=STARTING_SECONDS)
        return ready[next(self._turns) % len(ready)]

    async def _ask(self, url: str, body: dict[str, Any], request: Request) -> aiohttp.ClientResponse:
        assert self._client is not None
        headers = {"Content-Type": "application/json"}
        if "authorization" in request.headers:
            headers["Authorization"] = request.headers["authorization"]
        try:
            return await self._client.post(url, data=json.dumps(body), headers=headers)
        except aiohttp.ClientError as error:
            raise GatewayError(503, "the model's runtime went away before it answered; try again", retry_after=1) from error

    async def _pieces(self, answer: aiohttp.ClientResponse, aborted: asyncio.Event, key: tuple[str, str]) -> AsyncIterator[bytes]:
        """Closed with the client's connection, and by an abort: either ends the question to the runtime."""
        stop = asyncio.create_task(aborted.wait())
        try:
            pieces = answer.content.iter_any()
            while True:
                piece = asyncio.ensure_future(anext(pieces, None))
                await asyncio.wait({piece, stop}, return_when=asyncio.FIRST_COMPLETED)
                if not piece.done():
                    piece.cancel()
                    return
                if (data := piece.result()) is None:
                    return
                yield data
        finally:
            stop.cancel()
            answer.close()
            if self._asked.get(key) is aborted:
                del self._asked[key]

    async def abort(self, uid: str, name: str) -> str:
        """Xinference's word for what became of it."""
        if await self._backend.find(uid) is None:
            return "NO_OP"
        event = self._asked.get((uid, name))
        if event is None:
            return "NOT_FOUND"
        event.set()
        return "DONE"


def routes(data: Data) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await data.chat(request, "/v1/chat/completions")

    @router.post("/v1/models/{uid}/requests/{request_id}/abort")
    async def abort(uid: str, request_id: str) -> JSONResponse:
        return JSONResponse({"msg": await data.abort(uid, request_id)})

    return router
