"""The model's routes: POST /v1/chat/completions, POST /v1/completions and GET /v1/models."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from jitney_runtime.errors import ModelUnknown
from jitney_runtime.server.answer import Answer
from jitney_runtime.server.chat import ChatEnvelope, ChatRequest
from jitney_runtime.server.completion import CompletionEnvelope, CompletionRequest
from jitney_runtime.server.envelope import Envelope
from jitney_runtime.server.protocol import AnswerRequest
from jitney_runtime.server.reading import read
from jitney_runtime.server.reply import AnswerStream, whole
from jitney_runtime.server.state import ServerState


def model_routes(state: ServerState) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["openai"])
    name = state.settings.served_model_name
    created = int(time.time())

    @router.get("/models")
    async def models() -> dict[str, Any]:
        entry: dict[str, Any] = {"id": name, "object": "model", "created": created, "owned_by": "jitney"}
        if state.serving is not None:
            entry["max_model_len"] = state.serving.engine.max_model_len
        return {"object": "list", "data": [entry]}

    async def answered(kind: type[AnswerRequest], envelope: Envelope, http: Request) -> Response:
        request, length = await read(kind, http)
        serving = state.require()
        if request.model != name:
            raise ModelUnknown(f"the model {request.model!r} is not served here; this server serves {name!r}", "model")
        answer = await Answer.begin(state, serving, request, length)
        return AnswerStream(answer, envelope, request.streams_usage) if request.stream else await whole(http, answer, envelope)

    @router.post("/chat/completions", response_model=None, openapi_extra=_described(ChatRequest, "chat~1completions"))
    async def chat_completions(http: Request) -> Response:
        return await answered(ChatRequest, ChatEnvelope(name), http)

    @router.post("/completions", response_model=None, openapi_extra=_described(CompletionRequest, "completions"))
    async def completions(http: Request) -> Response:
        return await answered(CompletionRequest, CompletionEnvelope(name), http)

    return router


def _described(kind: type[AnswerRequest], path: str) -> dict[str, Any]:
    """The body in OpenAPI, which FastAPI writes only of what it reads itself. `path` is the route's, as a JSON pointer has it."""
    place = f"#/paths/~1v1~1{path}/post/requestBody/content/application~1json/schema/$defs/{{model}}"
    schema = kind.model_json_schema(ref_template=place)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
