"""POST /v1/chat/completions and GET /v1/models: validate, hand to the engine, answer whole or as server-sent events."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from jitney_runtime.engine.sequence import FinishReason, SamplingParams
from jitney_runtime.errors import EngineFailed, EngineUnavailable, InvalidRequest, ModelUnknown, RequestError, RequestTooLong
from jitney_runtime.server.answer import Answer
from jitney_runtime.server.error_shape import error_body, error_response
from jitney_runtime.server.protocol import ChatRequest
from jitney_runtime.server.state import ServerState, Serving
from jitney_runtime.text.chat import prompt_ids
from jitney_runtime.text.detokenizer import Detokenizer

# Rendering and tokenizing a prompt of more characters than this would hold up everybody's stream: it goes to a thread.
_LONG_PROMPT = 4096
# Nobody reads it; the access log of a proxy in between may show it (nginx's convention).
_CLIENT_CLOSED_REQUEST = 499


class Envelope:
    """What all chunks of one answer share."""

    def __init__(self, model: str) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model

    def wrap(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices, **more}

    def chunk(self, delta: dict[str, str], reason: FinishReason | None, **more: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self.wrap("chat.completion.chunk", [choice], **more)


def chat_routes(state: ServerState) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["openai"])
    name = state.settings.served_model_name
    created = int(time.time())

    @router.get("/models")
    async def models() -> dict[str, Any]:
        entry: dict[str, Any] = {"id": name, "object": "model", "created": created, "owned_by": "jitney"}
        if state.serving is not None:
            entry["max_model_len"] = state.serving.engine.max_model_len
        return {"object": "list", "data": [entry]}

    @router.post("/chat/completions", response_model=None)
    async def chat_completions(request: ChatRequest, http: Request) -> Response:
        serving = state.require()
        if request.model != name:
            raise ModelUnknown(f"the model {request.model!r} is not served here; this server serves {name!r}", "model")
        request.refuse_what_is_not_served()
        answer = await _begin(state, serving, request)
        envelope = Envelope(name)
        if request.stream:
            return AnswerStream(answer, envelope, usage=bool(request.stream_options and request.stream_options.include_usage))
        return await _whole(http, answer, envelope)

    return router


async def _begin(state: ServerState, serving: Serving, request: ChatRequest) -> Answer:
    messages = [message.for_template() for message in request.messages]
    if sum(len(message["content"]) for message in messages) > _LONG_PROMPT:
        prompt = await run_in_threadpool(prompt_ids, serving.tokenizer, messages)
    else:
        prompt = prompt_ids(serving.tokenizer, messages)
    params = _sampling(request, room=serving.engine.max_model_len - len(prompt))
    generation = serving.engine.submit(prompt, params)
    return Answer(state, generation, Detokenizer(serving.tokenizer, tuple(request.stop)))


def _sampling(request: ChatRequest, room: int) -> SamplingParams:
    """`room` is how many tokens the context window leaves after the prompt; at or under 0 the engine refuses the prompt itself."""
    if request.max_tokens and request.max_completion_tokens and request.max_tokens != request.max_completion_tokens:
        raise InvalidRequest("max_tokens and max_completion_tokens say different things: give one", "max_completion_tokens")
    wanted = request.max_completion_tokens or request.max_tokens
    if wanted and 0 < room < wanted:
        field = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
        raise RequestTooLong(
            f"{field} is {wanted} and the context window leaves {room} tokens after this prompt: lower it or shorten the messages", field
        )
    return SamplingParams(
        max_tokens=wanted or max(1, room),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=max(0, request.top_k),
        seed=request.seed,
        ignore_eos=request.ignore_eos,
    )


async def _whole(http: Request, answer: Answer, envelope: Envelope) -> Response:
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
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": reason}
    return JSONResponse(envelope.wrap("chat.completion", [choice], usage=answer.usage.model_dump()))


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
        yield _event(envelope.chunk({"role": "assistant", "content": ""}, None, **more))
        async for piece in answer.pieces():
            if failure := _failure(piece.finish_reason):
                yield _event(error_body(failure.message, failure.kind, None, failure.code))
                return
            if piece.text:
                yield _event(envelope.chunk({"content": piece.text}, None, **more))
            if piece.finish_reason:
                yield _event(envelope.chunk({}, piece.finish_reason, **more))
        if usage:
            yield _event(envelope.wrap("chat.completion.chunk", [], usage=answer.usage.model_dump()))
        yield b"data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
