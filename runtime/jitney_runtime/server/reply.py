"""How an answer leaves: in one piece, or as server-sent events. Whoever it was for may go away; then the answer ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from jitney_runtime.engine.sequence import FinishReason
from jitney_runtime.errors import EngineFailed, EngineUnavailable, RequestError
from jitney_runtime.server.answer import Answer
from jitney_runtime.server.envelope import Envelope, Json, encode
from jitney_runtime.server.error_shape import error_body, error_response

# Nobody reads it; the access log of a proxy in between may show it (nginx's convention).
_CLIENT_CLOSED_REQUEST = 499


async def whole(http: Request, answer: Answer, envelope: Envelope) -> Response:
    """The answer in one piece; a client that goes away meanwhile ends it."""
    collecting = asyncio.create_task(_collect(answer))
    leaving = asyncio.create_task(_disconnected(http))
    try:
        await asyncio.wait((collecting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not collecting.done():
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        text, reason = collecting.result()
    finally:
        collecting.cancel()
        leaving.cancel()
        answer.close()
    if failure := _failure(reason):
        return error_response(failure)
    return JSONResponse(envelope.whole(text, reason, answer.usage))


async def _collect(answer: Answer) -> tuple[str, FinishReason]:
    text, reason = "", FinishReason.ERROR
    async for piece in answer.pieces():
        text += piece.text
        reason = piece.finish_reason or reason
    return text, reason


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _failure(reason: FinishReason | None) -> RequestError | None:
    """Why an answer that was begun has no end that a client can use; None for one that has."""
    if reason is FinishReason.ERROR:
        return EngineFailed("the model failed on this request")
    if reason is FinishReason.ABORT:
        return EngineUnavailable("this server is shutting down and cuts this answer: send the request again")
    return None


class AnswerStream(StreamingResponse):
    """Server-sent events (WHATWG HTML, 9.2): a `data:` line per chunk, `[DONE]` last. However the connection ends, the answer is closed."""

    media_type = "text/event-stream"

    def __init__(self, answer: Answer, envelope: Envelope, usage: bool) -> None:
        super().__init__(self._events(answer, envelope, usage), headers={"Cache-Control": "no-cache"})
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()

    async def _events(self, answer: Answer, envelope: Envelope, usage: bool) -> AsyncIterator[bytes]:
        """With `usage`, every chunk has the field, as OpenAI does it, and the last one the figures."""
        more = {"usage": None} if usage else {}
        if opening := envelope.opening():
            yield _event(envelope.chunk(opening, **more))
        before, after = envelope.around(**more)
        async for piece in answer.pieces():
            if failure := _failure(piece.finish_reason):
                yield _event(error_body(failure.message, failure.kind, None, failure.code))
                return
            if piece.text:
                yield _framed(before + encode(piece.text) + after)
            if piece.finish_reason:
                yield _event(envelope.chunk(envelope.delta(""), piece.finish_reason, **more))
        if usage:
            yield _event(envelope.closing(answer.usage))
        yield b"data: [DONE]\n\n"


def _event(body: Json) -> bytes:
    return _framed(encode(body))


def _framed(text: str) -> bytes:
    return f"data: {text}\n\n".encode()
