"""POST /v1/chat/completions and GET /v1/models: validate, hand to the engine, answer whole or as server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from jitney_runtime.engine.sequence import FinishReason, SamplingParams
from jitney_runtime.errors import InvalidRequest, ModelUnknown, RequestTooLong
from jitney_runtime.server.answer import Answer
from jitney_runtime.server.protocol import ChatRequest
from jitney_runtime.server.state import Serving, ServerState
from jitney_runtime.text.chat import prompt_ids
from jitney_runtime.text.detokenizer import Detokenizer

# Rendering and tokenizing a prompt of more characters than this would hold up everybody's stream: it goes to a thread.
_LONG_PROMPT = 4096


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
    async def chat_completions(request: ChatRequest) -> Response:
        serving = state.require()
        if request.model != name:
            raise ModelUnknown(f"the model {request.model!r} is not served here; this server serves {name!r}", "model")
        answer = await _begin(state, serving, request)
        envelope = Envelope(name)
        if request.stream:
            usage = bool(request.stream_options and request.stream_options.include_usage)
            return StreamingResponse(_events(state, answer, envelope, usage), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        return await _whole(state, answer, envelope)

    return router


async def _begin(state: ServerState, serving: Serving, request: ChatRequest) -> Answer:
    messages = [message.for_template() for message in request.messages]
    if sum(len(message["content"]) for message in messages) > _LONG_PROMPT:
        prompt = await run_in_threadpool(prompt_ids, serving.tokenizer, messages)
    else:
        prompt = prompt_ids(serving.tokenizer, messages)
    params = _sampling(request, room=serving.engine.max_model_len - len(prompt))
    generation = serving.engine.submit(prompt, params)
    return Answer(generation, Detokenizer(serving.tokenizer, request.stops), state.metrics)


def _sampling(request: ChatRequest, room: int) -> SamplingParams:
    """`room` is how many tokens the context window leaves after the prompt; at or under 0 the engine refuses the prompt itself."""
    if request.max_tokens and request.max_completion_tokens and request.max_tokens != request.max_completion_tokens:
        raise InvalidRequest("max_tokens and max_completion_tokens say different things: give one", "max_completion_tokens")
    wanted = request.max_completion_tokens or request.max_tokens
    if wanted and 0 < room < wanted:
        field = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
        raise RequestTooLong(f"{field} is {wanted} and the context window leaves {room} tokens after this prompt: lower it or shorten the messages", field)
    return SamplingParams(
        max_tokens=wanted or max(1, room),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=max(0, request.top_k),
        seed=request.seed,
        ignore_eos=request.ignore_eos,
    )


async def _whole(state: ServerState, answer: Answer, envelope: Envelope) -> Response:
    text, reason = "", FinishReason.ERROR
    state.active_answers += 1
    try:
        async for piece in answer.pieces():
            text += piece.text
            reason = piece.finish_reason or reason
    finally:
        state.active_answers -= 1
    if reason is FinishReason.ERROR:
        return JSONResponse({"error": _failed()}, 500)
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": reason}
    return JSONResponse(envelope.wrap("chat.completion", [choice], usage=answer.usage.model_dump()))


def _failed() -> dict[str, Any]:
    return {"message": "the model failed on this request; other requests are not affected", "type": "server_error", "param": None, "code": "engine_error"}


async def _events(state: ServerState, answer: Answer, envelope: Envelope, usage: bool) -> AsyncIterator[bytes]:
    """Server-sent events (WHATWG HTML, 9.2): one `data:` line per chunk, `[DONE]` last. With usage, every chunk has the field, as OpenAI does."""
    more = {"usage": None} if usage else {}
    state.active_answers += 1
    try:
        yield _event(envelope.chunk({"role": "assistant", "content": ""}, None, **more))
        async for piece in answer.pieces():
            if piece.finish_reason is FinishReason.ERROR:
                yield _event({"error": _failed()})
                return
            if piece.text:
                yield _event(envelope.chunk({"content": piece.text}, None, **more))
            if piece.finish_reason:
                yield _event(envelope.chunk({}, piece.finish_reason, **more))
        if usage:
            yield _event(envelope.wrap("chat.completion.chunk", [], usage=answer.usage.model_dump()))
        yield b"data: [DONE]\n\n"
    finally:
        state.active_answers -= 1


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
