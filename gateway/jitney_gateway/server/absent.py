"""What Xinference has and this does not: each route says in a sentence what to do instead (501), which its clients show."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter

from jitney_gateway.errors import GatewayError
from jitney_gateway.server.uids import by_uid

RELOAD = "a model's parameters are those of its launch: terminate it and launch it again"
AUTOSTART = "every launched model comes back by itself after a restart, and there is no list to keep"
CACHE = "what was downloaded is the Hugging Face hub's own cache: `hf cache` lists it and removes from it where the models run"
WORKERS = "there are no workers to start again: a runtime that dies is started again by itself"
STOP = "the front door is not ended from afar: end `jitney local` by Ctrl-C or SIGTERM, and in a cluster take away its Deployment"
ABSENT: dict[str, tuple[tuple[str, ...], str]] = {
    "/v1/models/{uid:uid}/reload": (("GET", "POST"), RELOAD),
    "/v1/models/{uid:uid}/reload/config": (("GET",), RELOAD),
    "/v1/autostart/models": (("GET", "POST"), AUTOSTART),
    "/v1/autostart/models/summary": (("GET",), AUTOSTART),
    "/v1/autostart/models/{uid}": (("DELETE",), AUTOSTART),
    "/v1/cache/models": (("GET", "DELETE"), CACHE),
    "/v1/cache/models/files": (("GET",), CACHE),
    "/v1/workers/{address}/relaunch": (("POST",), WORKERS),
    "/v1/worker-relaunches": (("GET",), WORKERS),
    "/v1/worker-relaunches/{operation}": (("GET",), WORKERS),
    "/v1/requests/{request}/progress": (("GET",), "only images have a progress; the answer of a chat is streamed with stream: true"),
    "/v1/clusters": (("DELETE",), STOP),
}


def routes() -> APIRouter:
    router = by_uid()
    for path, (methods, words) in ABSENT.items():
        router.add_api_route(path, _refusing(words), methods=list(methods), name=f"absent {path}")

    @router.get("/v1/models/vllm-supported")
    async def vllm() -> dict[str, str]:
        """None: the engine is transformers."""
        return {}

    return router


def _refusing(words: str) -> Callable[[], Awaitable[None]]:
    async def refuse() -> None:
        raise GatewayError(501, words, code="not_supported")

    return refuse
