"""The data path: a chat or a completion goes to a replica of its model and comes back byte for byte, as it is made.

A client that goes away ends the question to the runtime, which frees its row. `request_id` is the name by which Xinference's
abort_request finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from jitney_gateway.backend import Backend
from jitney_gateway.errors import GatewayError, bad_field
from jitney_gateway.routing.bounds import Bounds
from jitney_gateway.routing.router import Turn
from jitney_gateway.server import told, wanted, wire
from jitney_gateway.server.body import parsed, read
from jitney_gateway.server.dispatch import Dispatch
from jitney_gateway.server.limits import Limits
from jitney_gateway.server.meter import END, Meter, asked_usage
from jitney_gateway.server.metrics import Metrics
from jitney_gateway.server.peers import Peers
from jitney_gateway.server.question import Ended, Question
from jitney_gateway.server.questions import Name, Questions
from jitney_gateway.server.uids import by_uid
from jitney_gateway.server.visit import Visit, current

# Of the runtime's answer; connection headers are ours.
STREAM = "text/event-stream"
KEPT = ("content-type", "retry-after", "x-request-id", "cache-control")
# A runtime may want a key of its own (apiKeySecretRef), and ours is none of its business.
RUNTIME_KEY = "x-runtime-authorization"
# For how long an abort waits for a request that it came before, in seconds: Xinference's own where nothing is said, and the longest.
USUAL_BLOCK, LONGEST_BLOCK = 30, 3600
LONGEST_TOLD = 100
# How often the front doors that share each key's limits are counted, in seconds.
COUNTED_EVERY, COUNTED_SOON = 5.0, 0.5
# Of the name that a client gives its question.
LONGEST_NAME = 256

logger = logging.getLogger(__name__)


class Passage(StreamingResponse):
    """A runtime's answer, as it comes, up to its end or the question's. However the client's connection ends, so does the one to the
    runtime."""

    def __init__(self, question: Question, answer: aiohttp.ClientResponse, tell: Teller | None, over: Callable[[], None]) -> None:
        headers = {header: answer.headers[header] for header in KEPT if header in answer.headers}
        super().__init__(self._pieces(question, answer), answer.status, headers)
        self._answer, self._tell, self._over = answer, tell, over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # Where the answer is ended in its middle the server closes the connection: its end is not sent.
            with contextlib.suppress(Ended):
                await super().__call__(scope, receive, send)
        finally:
            self._answer.close()
            if self._tell:
                self._tell.end()
            self._over()

    async def _pieces(self, question: Question, answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        pieces, tell, whole = answer.content.iter_any(), self._tell, True
        try:
            while (data := await question.wait(anext(pieces, None))) is not None:
                if passed := tell.pass_on(data) if tell else data:
                    whole = passed.endswith(END)
                    yield passed
        except Ended:
            if not (whole and answer.content_type == STREAM):
                # With a good end it would look like all of the answer.
                raise
            # Who has ended it by himself knows. Anybody else is told.
            if question.error.status >= 500:
                yield b"data: " + json.dumps(told.body(question.error)).encode() + END
            return
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

    def __init__(self, backend: Backend, bounds: Bounds, limits: Limits, metrics: Metrics, peers: Peers, questions: Questions) -> None:
        self._dispatch, self._peers, self._unready = Dispatch(backend, bounds), peers, backend.unready
        self._limits, self._metrics, self._questions = limits, metrics, questions
        self._client: aiohttp.ClientSession | None = None
        self._counting: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        return self._dispatch.in_flight

    @property
    def held(self) -> int:
        return self._dispatch.held

    async def start(self) -> None:
        self._client = wire.session()
        if self._peers.named:
            self._counting = asyncio.create_task(self._count(self._client), name="peers")

    async def stop(self) -> None:
        if self._counting:
            self._counting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._counting
        if self._client:
            await self._client.close()

    async def _count(self, client: aiohttp.ClientSession) -> None:
        """For ever."""
        for pause in self._pauses():
            try:
                # Where none is heard, not even this one, it is not known how many there are.
                self._limits.doors = await self._peers.ready(client) or self._limits.doors
            except Exception:
                # Whatever it is: a number that is never looked at again would be wrong for ever.
                logger.exception("the front doors could not be counted; taken for %d as before", self._limits.doors)
            await asyncio.sleep(pause)

    def _pauses(self) -> Iterator[float]:
        """Shorter ones while it joins: it finds itself only once it knows its models and its own port is open."""
        while self._unready():
            yield COUNTED_SOON
        yield from itertools.repeat(COUNTED_SOON, 10)
        yield from itertools.repeat(COUNTED_EVERY)

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
        question = self._questions.begin((visit.key_id, uid, _named(str(body.pop("request_id", "") or ""))))
        asking = asked_usage(body)
        try:
            answer, turn = await self._ask(question, uid, asking or body, request)
        except BaseException:
            self._questions.forget(question)
            raise

        def over() -> None:
            turn.release()
            self._questions.forget(question)

        tell = None
        # What was refused cost nothing.
        if answer.status == 200:
            streamed = answer.content_type == STREAM
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
            raise question.error from None

    async def abort(self, request: Request, uid: str, request_id: str) -> str:
        """Xinference's word for what became of it, here or at another front door. One that is nowhere may be on its way, and is refused
        where it comes."""
        assert self._client is not None
        seconds, destination = _block_duration(await read(request)), self._dispatch.find(uid)
        if destination is None:
            return "NO_OP"
        name = (current.get().key_id, destination.uid, _named(request_id))
        found = await self._end(name, request)
        if seconds and not found:
            self._questions.await_end(name, seconds)
            # It may have come to one of them meanwhile, and the others are not to wait for it any more.
            found = await self._peers.abort(self._client, request, seconds) and await self._end(name, request, True)
        return "DONE" if found else "NOT_FOUND"

    async def _end(self, name: Name, request: Request, found: bool = False) -> bool:
        """Whether there is a question of this name, or was, anywhere. The name is free then everywhere: an earlier abort may be waiting for
        it."""
        assert self._client is not None
        found |= self._questions.end(name)
        found |= await self._peers.abort(self._client, request, 0)
        # It may have come here while the others were asked.
        found |= self._questions.end(name)
        self._questions.await_end(name, 0)
        return found


def _named(request_id: str) -> str:
    """GatewayError (400) where it is too long to be kept."""
    if len(request_id) > LONGEST_NAME:
        raise bad_field("request_id", f"may have {LONGEST_NAME} characters, and has {len(request_id)}")
    return request_id


def _block_duration(body: bytes) -> float:
    """GatewayError (400) where it is anything else, or something stands beside it."""
    asked = parsed(body or b"{}")
    if not isinstance(asked, dict):
        raise GatewayError(400, "the body must be a JSON object", code="invalid_value")
    found = asked.pop("block_duration", USUAL_BLOCK)
    seconds = USUAL_BLOCK if found is None else found
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_BLOCK:
        raise bad_field("block_duration", f"must be a number of seconds from 0 to {LONGEST_BLOCK}, not {str(found)[:LONGEST_TOLD]}")
    for key in asked:
        raise bad_field(key[:LONGEST_TOLD], "this is no parameter of an abort")
    return seconds


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
