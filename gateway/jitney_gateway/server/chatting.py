"""The data path: a chat or a completion goes to a replica of its model and comes back byte for byte, as it is made.

A client that goes away ends the question to the runtime, which frees its row. `request_id` is the name by which Xinference's
abort_request finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from jitney_gateway.backend import Backend
from jitney_gateway.errors import GatewayError, unknown_model
from jitney_gateway.model import ERROR, READY, Model, Replica
from jitney_gateway.server.body import json_body
from jitney_gateway.server.question import Ended, Question

# How long a client may be asked to wait while a model starts.
STARTING_SECONDS = 5
# Of the runtime's answer; connection headers are ours.
KEPT = ("content-type", "retry-after", "x-request-id", "cache-control")


class Passage(StreamingResponse):
    """A runtime's answer, byte for byte as it comes, up to its end or the question's. However the client's connection ends, so does the
    one to the runtime."""

    def __init__(self, question: Question, answer: aiohttp.ClientResponse, over: Callable[[], None]) -> None:
        headers = {header: answer.headers[header] for header in KEPT if header in answer.headers}
        super().__init__(self._pieces(question, answer), answer.status, headers)
        self._answer, self._over = answer, over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()
            self._over()

    async def _pieces(self, question: Question, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        pieces = answer.content.iter_any()
        with contextlib.suppress(Ended):
            while (data := await question.wait(anext(pieces, None))) is not None:
                yield data


class Data:
    """The questions under way. Lives on the event loop."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._asked: dict[tuple[str, str], Question] = {}
        self._turns = itertools.count()
        self._client: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        # An answer takes as long as it takes; that nobody listens any more is noticed by the client's connection.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        self._client = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)

    async def stop(self) -> None:
        if self._client:
            await self._client.close()

    async def answer(self, request: Request) -> Response:
        """Asks the runtime under the path that was asked here."""
        body = await json_body(request)
        model = await self._model(body)
        key, question = (model.uid, str(body.pop("request_id", "") or "")), Question()
        url = f"{self._choose(model).address}{request.url.path}"
        if key[1]:
            self._asked[key] = question
        try:
            answer = await self._ask(question, url, body, request)
        except BaseException:
            self._forget(key, question)
            raise
        return Passage(question, answer, lambda: self._forget(key, question))

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

    async def _ask(self, question: Question, url: str, body: dict[str, Any], request: Request) -> aiohttp.ClientResponse:
        """A runtime that does not stream answers when all is done: until then, too, the client may go away, and the question be aborted."""
        assert self._client is not None
        headers = {"Content-Type": "application/json"}
        if "authorization" in request.headers:
            headers["Authorization"] = request.headers["authorization"]
        leaving = asyncio.create_task(question.end_with_client(request))
        try:
            return await question.wait(self._client.post(url, data=json.dumps(body), headers=headers))
        except Ended:
            raise GatewayError(499, "the request was aborted", code="aborted") from None
        except aiohttp.ClientError as error:
            raise GatewayError(503, "the model's runtime went away before it answered; try again", retry_after=1) from error
        finally:
            leaving.cancel()

    def _forget(self, key: tuple[str, str], question: Question) -> None:
        """A later question may have the same name."""
        if self._asked.get(key) is question:
            del self._asked[key]

    async def abort(self, uid: str, name: str) -> str:
        """Xinference's word for what became of it."""
        if await self._backend.find(uid) is None:
            return "NO_OP"
        question = self._asked.get((uid, name))
        if question is None:
            return "NOT_FOUND"
        question.end()
        return "DONE"


def routes(data: Data) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/chat/completions")
    @router.post("/v1/completions")
    async def answer(request: Request) -> Response:
        return await data.answer(request)

    @router.post("/v1/models/{uid}/requests/{request_id}/abort")
    async def abort(uid: str, request_id: str) -> JSONResponse:
        return JSONResponse({"msg": await data.abort(uid, request_id)})

    return router
