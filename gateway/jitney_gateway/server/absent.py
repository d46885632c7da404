"""What Xinference has and this does not: each route says in a sentence what to do instead (501), which its clients show.

The OpenAPI document has the sentence beside the 501 of each.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request

from jitney_gateway.errors import GatewayError
from jitney_gateway.server.body import read
from jitney_gateway.server.uids import by_uid

RELOAD = "a model's parameters are those of its launch: terminate it and launch it again"
AUTOSTART = "every launched model comes back by itself after a restart, and there is no list to keep"
CACHE = "what was downloaded is the Hugging Face hub's own cache: `hf cache` lists it and removes from it where the models run"
RELAUNCH = "nothing is started again from afar: a runtime that dies is started again by itself, and so is a front door in a cluster"
STOP = "the front door is not ended from afar: end `jitney local` by Ctrl-C or SIGTERM, and in a cluster take away its Deployment"
LOGIN = "there are no users to log in: give the client an API key of this front door"
LAUNCH = "launch by POST /v1/models, with revision where it is to be another one than the catalogue's"
EVENTS = "what happens to a model is told by its status, its progress and its logs"
ANTHROPIC = "Anthropic's API is not spoken here: ask by OpenAI's, POST /v1/chat/completions and GET /v1/models"
FAMILIES = "names and templates are told family by family: GET /v1/model_registrations/LLM lists them"
KINDS = "only chat models are served: chats, completions, and no other kind of model"
ABSENT: dict[str, tuple[tuple[str, ...], str]] = {
    "/v1/models/{uid:uid}/reload": (("GET", "POST"), RELOAD),
    "/v1/models/{uid:uid}/reload/config": (("GET",), RELOAD),
    "/v1/models/{uid:uid}/events": (("GET",), EVENTS),
    "/v1/models/{kind}/{name}/versions": (("GET",), LAUNCH),
    # Before the route that would take them for uids.
    "/v1/models/prompts": (("GET",), FAMILIES),
    "/v1/models/families": (("GET",), FAMILIES),
    "/v1/models/instance": (("POST",), LAUNCH),
    "/v1/models/llm/auto-register": (("POST",), "register a custom model by POST /v1/model_registrations/LLM"),
    "/v1/launch_history": (("GET", "POST", "DELETE"), "launches are kept in the log: its lines of jitney.audit"),
    "/v1/autostart/models": (("GET", "POST"), AUTOSTART),
    "/v1/autostart/models/summary": (("GET",), AUTOSTART),
    "/v1/autostart/models/{uid}": (("DELETE",), AUTOSTART),
    "/v1/cache/models": (("GET", "DELETE"), CACHE),
    "/v1/cache/models/files": (("GET",), CACHE),
    "/v1/workers/{address}/relaunch": (("POST",), RELAUNCH),
    "/v1/worker-relaunches": (("GET",), RELAUNCH),
    "/v1/worker-relaunches/{operation}": (("GET",), RELAUNCH),
    "/v1/api/relaunch": (("POST",), RELAUNCH),
    "/v1/api-relaunches": (("GET",), RELAUNCH),
    "/v1/api-relaunches/{operation}": (("GET",), RELAUNCH),
    "/v1/supervisor/relaunch": (("POST",), RELAUNCH),
    "/v1/supervisor-relaunches": (("GET",), RELAUNCH),
    "/v1/supervisor-relaunches/{operation}": (("GET",), RELAUNCH),
    "/v1/requests/{request}/progress": (("GET",), "only images have a progress; the answer of a chat is streamed with stream: true"),
    "/v1/clusters": (("DELETE",), STOP),
    "/token": (("POST",), LOGIN),
    "/v1/messages": (("POST",), ANTHROPIC),
    "/v1/messages/count_tokens": (("POST",), ANTHROPIC),
    "/anthropic/v1/messages": (("POST",), ANTHROPIC),
    "/anthropic/v1/messages/count_tokens": (("POST",), ANTHROPIC),
    "/anthropic/v1/models": (("GET",), ANTHROPIC),
    "/anthropic/v1/models/{model}": (("GET",), ANTHROPIC),
    "/v1/responses": (("POST",), "answers are not kept here, and no tools are called: ask POST /v1/chat/completions"),
    "/v1/embeddings": (("POST",), KINDS),
    "/v1/convert_ids_to_tokens": (("POST",), KINDS),
    "/v1/rerank": (("POST",), KINDS),
    "/v1/images/{what}": (("POST",), KINDS),
    "/v1/video/generations": (("POST",), KINDS),
    "/v1/video/generations/{what}": (("POST",), KINDS),
    "/v1/worlds/generations": (("POST",), KINDS),
    "/v1/audio/{what}": (("POST",), KINDS),
    "/v1/flexible/infers": (("POST",), KINDS),
}


def routes() -> APIRouter:
    router = by_uid()
    for path, (methods, words) in ABSENT.items():
        # One for each method: an operation's id has one of them in it.
        for method in methods:
            router.add_api_route(
                path,
                _refusing(words),
                methods=[method],
                name=f"absent {path}",
                summary="Not supported",
                description=words,
                status_code=501,
                response_description=words,
                openapi_extra={"parameters": _parameters(path)},
            )

    @router.get("/v1/models/vllm-supported")
    async def vllm() -> dict[str, str]:
        """None: the engine is transformers."""
        return {}

    return router


def _parameters(path: str) -> list[dict[str, Any]]:
    names = re.findall(r"{(\w+)", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _refusing(words: str) -> Callable[[Request], Awaitable[None]]:
    async def refuse(request: Request) -> None:
        # A client that is still sending its body, which may be a picture, would not read the answer.
        await read(request)
        raise GatewayError(501, words, code="not_supported")

    return refuse
