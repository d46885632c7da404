"""The data path: a chat or a completion goes to a replica of its model and comes back byte for byte, as it is made.

A client that goes away ends the question to the runtime, which frees its row. `request_id` is the name by which Xinference's
abort_request finds it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from jitney_gateway.backend import Backend
from jitney_gateway.errors import GatewayError
from jitney_gateway.routing.bounds import Bounds
from jitney_gateway.routing.router import Turn
from jitney_gateway.server import wanted, wire
from jitney_gateway.server.body import parsed, read
from jitney_gateway.server.dispatch import Dispatch
from jitney_gateway.server.limits import Limits
from jitney_gateway.server.meter import Meter, asked_usage
from jitney_gateway.server.metrics import Metrics
from jitney_gateway.server.peers import Peers
from jitney_gateway.server.question import Ended, Question
from jitney_gateway.server.uids import by_uid
from jitney_gateway.server.visit import Visit, current

# Of the runtime's answer; connection headers are ours.
KEPT = ("content-type", "retry-after", "x-request-id", "cache-control")
# A runtime may want a key of its own (apiKeySecretRef), and ours is none of its business.
RUNTIME_KEY = "x-runtime-authorization"


class Passage(StreamingResponse):
    """A runtime's answer, as it comes, up to its end or the question's. However the client's connection ends, so does the one to the
    runtime."""

    def __init__(self, question: Question, answer: aiohttp.ClientResponse, tell: Teller | None, over: Callable[[], None]) -> None:
        headers = {header: answer.headers[header] for header in KEPT if header in answer.headers}
        super().__init__(self._pieces(question, answer), answer.status, headers)
        self._answer, self._tell, self._over = answer, tell, over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()
            if self._tell:
                self._tell.end()
            self._over()

    async def _pieces(self, question: Question, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        pieces = answer.content.iter_any()
        tell = self._tell
        with contextlib.suppress(Ended):
            while (data := await question.wait(anext(pieces, None))) is not None:
                if passed := tell.pass_on(data) if tell else data:
                    yield passed
        if tell and (rest := tell.meter.rest()):
            yield rest


class Teller:
    """What one answer comes to, for the limits and the metrics."""

    def __init__(self, meter: Meter, visit: Visit, begun: float, limits: Limits, metrics: Metrics) -> None:
        self.meter, self._visit, self._begun = meter, visit, begun
        self._limits, self._metrics = limits, metrics

    def pass_on(self, data: bytes) -> bytes:
        before = self.meter.spoken
        passed = self.meter.feed(data)
        if self.meter.spoken and not before:
            self._metrics.first_token(self._visit, time.monotonic() - self._begun)
        return passed

    def end(self) -> None:
        prompt, completion = self.meter.usage()
        self._metrics.spent(self._visit, prompt, completion)
        if self._visit.key:
            self._limits.spend(self._visit.key, prompt + completion)


class Data:
    """The questions under way. Lives on the event loop."""

    def __init__(self, backend: Backend, bounds: Bounds, limits: Limits, metrics: Metrics, peers: Peers) -> None:
        self._dispatch, self._peers = Dispatch(backend, bounds), peers
        self._limits, self._metrics = limits, metrics
        # By who asked, so that nobody ends another's.
        self._asked: dict[tuple[str, str, str], Question] = {}
        self._client: aiohttp.ClientSession | None = None

    @property
    def in_flight(self) -> int:
        return self._dispatch.in_flight

    @property
    def held(self) -> int:
        return self._dispatch.held

    async def start(self) -> None:
        self._client = wire.session()

    async def stop(self) -> None:
        if self._client:
            await self._client.close()

    async def answer(self, request: Request) -> Response:
        """Asks the runtime under the path that was asked here."""
        data = await read(request)
        body, characters = parsed(data), len(data)
        # It may be long, and the question may be held for minutes.
        del data
        if not isinstance(body, dict) or not isinstance(body.get("model"), str):
            raise GatewayError(400, "model: give the uid of a launched model", code="invalid_value")
        visit, begun = current.get(), time.monotonic()
        uid = visit.model = self._dispatch.known(body["model"]).uid
        key, question = (visit.key_id, uid, str(body.pop("request_id", "") or "")), Question()
        if key[2]:
            self._asked[key] = question
        asking = asked_usage(body)
        try:
            answer, turn = await self._ask(question, uid, asking or body, request)
        except BaseException:
            self._forget(key, question)
            raise

        def over() -> None:
            turn.release()
            self._forget(key, question)

        tell = None
        # What was refused cost nothing.
        if answer.status == 200:
            streamed = answer.content_type == "text/event-stream"
            meter = Meter(streamed, hide=streamed and asking is not None, characters=characters)
            tell = Teller(meter, visit, begun, self._limits, self._metrics)
        return Passage(question, answer, tell, over)

    async def _ask(self, question: Question, uid: str, body: dict[str, Any], request: Request) -> tuple[aiohttp.ClientResponse, Turn]:
        """A runtime that does not stream answers when all is done, and a model may have to wake: until then, too, the client may go away,
        and the question be aborted."""
        assert self._client is not None
        headers = {"Content-Type": "application/json"}
        if theirs := request.headers.get(RUNTIME_KEY) or ("" if current.get().key else request.headers.get("authorization")):
            headers["Authorization"] = theirs
        try:
            return await question.wait_with_client(request, self._dispatch.ask(self._client, uid, request.url.path, body, headers))
        except Ended:
            raise GatewayError(499, "the request was aborted", code="aborted") from None

    def _forget(self, key: tuple[str, str, str], question: Question) -> None:
        """A later question may have the same name."""
        if self._asked.get(key) is question:
            del self._asked[key]

    async def abort(self, request: Request, uid: str, name: str) -> str:
        """Xinference's word for what became of it, here or at another front door."""
        assert self._client is not None
        destination = self._dispatch.find(uid)
        if destination is None:
            return "NO_OP"
        question = self._asked.get((current.get().key_id, destination.uid, name))
        if question is None:
            return "DONE" if await self._peers.abort(self._client, request) else "NOT_FOUND"
        question.end()
        return "DONE"


def routes(data: Data) -> APIRouter:
    router = by_uid()

    @router.post("/v1/chat/completions", openapi_extra=wanted.CHAT)
    @router.post("/v1/completions", openapi_extra=wanted.COMPLETION)
    async def answer(request: Request) -> Response:
        return await data.answer(request)

    @router.post("/v1/models/{uid:uid}/requests/{request_id}/abort", openapi_extra=wanted.ABORT)
    async def abort(request: Request, uid: str, request_id: str) -> JSONResponse:
        return JSONResponse({"msg": await data.abort(request, uid, request_id)})

    return router
