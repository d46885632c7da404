"""Launch, list, describe, terminate: the routes of Xinference's RESTful client. Errors are `{"detail": "..."}`."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from jitney_gateway.backend import Backend
from jitney_gateway.catalogue import Catalogue
from jitney_gateway.errors import GatewayError
from jitney_gateway.launch import QUANTIZATIONS, Launch
from jitney_gateway.model import written_size
from jitney_gateway.server import absent, audit, cluster, registering, replicas, wanted
from jitney_gateway.server.body import json_body
from jitney_gateway.server.question import Ended, Question
from jitney_gateway.server.questions import Questions
from jitney_gateway.server.registering import resolved
from jitney_gateway.server.replicas import known
from jitney_gateway.server.uids import by_uid
from jitney_gateway.server.visit import current

# Of every model that nobody has registered.
SERVED = tuple(dict.fromkeys(QUANTIZATIONS.values()))
LONGEST_TOLD = 100


def routes(backend: Backend, catalogue: Catalogue, keyed: bool, questions: Questions) -> APIRouter:
    """All of them, in an order in which no path is taken for a uid. `keyed` is whether a key is needed."""
    router = APIRouter()
    router.include_router(absent.routes())
    router.include_router(cluster.routes(backend, keyed))
    router.include_router(_telling(backend, catalogue))
    router.include_router(_changing(backend, catalogue, questions))
    router.include_router(replicas.routes(backend))
    router.include_router(registering.routes(backend, catalogue))
    return router


def _changing(backend: Backend, catalogue: Catalogue, questions: Questions) -> APIRouter:
    """Launch, and the two ways to end a model."""
    router = by_uid()

    @router.post("/v1/models", openapi_extra=wanted.LAUNCH)
    async def launch(request: Request, wait_ready: bool = True) -> dict[str, str]:
        # How it goes on after it was begun is the model's status.
        with contextlib.ExitStack() as stack:
            with audit.line("launch", "") as line:
                body = await json_body(request)
                line["model"] = _meant(body)
                asked = Launch.parse(body)
                line |= {"model": asked.uid or asked.name, "name": asked.name, "path": asked.model_path, "replicas": asked.replicas}
                # Before anything is made: where nothing is begun any more, the client may send it again.
                question = stack.enter_context(questions.under_way((current.get().key_id, "", "")))
                uid = line["model"] = await backend.launch(await resolved(asked, backend, catalogue))
            if wait_ready:
                await _wait(question, request, backend, uid)
        return {"model_uid": uid}

    @router.delete("/v1/models/{uid:uid}")
    @router.post("/v1/models/{uid:uid}/cancel")
    async def terminate(uid: str) -> JSONResponse:
        with audit.line("terminate", uid):
            await known(backend, uid)
            await backend.terminate(uid)
        return JSONResponse(None)

    return router


async def _wait(question: Question, request: Request, backend: Backend, uid: str) -> None:
    """GatewayError where the model does not come, or nobody waits for it here."""
    try:
        await question.wait_with_client(request, backend.ready(uid))
    except Ended:
        goes_on = f"the launch of {uid} goes on"
        if question.error.status < 500:
            raise GatewayError(499, f"nobody waits any more; {goes_on}", code="aborted") from None
        # Not to be sent again, which would make another model.
        words = f"this front door is leaving; {goes_on}: ask GET /v1/models/{uid} how far it is"
        raise GatewayError(question.error.status, words, code=question.error.code) from None
    except GatewayError as error:
        if error.code == "launch_failed":
            # The caller has the reason, and a model that never came is not left in the list. Where it cannot be taken out, that is in the
            # log, and the reason is still what the caller asked for.
            with contextlib.suppress(GatewayError), audit.line("terminate", uid, why="launch_failed"):
                await backend.terminate(uid)
        raise


def _meant(body: object) -> str:
    """What a launch that may not be understood is about, for the log."""
    found = (body.get("model_uid") or body.get("model_name")) if isinstance(body, dict) else None
    return found[:LONGEST_TOLD] if isinstance(found, str) else ""


def _telling(backend: Backend, catalogue: Catalogue) -> APIRouter:
    """What is there, and what there could be."""
    router = by_uid()

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model.listed() for model in await backend.models()]}

    @router.get("/v1/models/instances")
    async def instances(
        model_name: Annotated[str | None, Query()] = None, model_uid: Annotated[str | None, Query()] = None
    ) -> list[dict[str, Any]]:
        found = await backend.models()
        return [
            model.instance()
            for model in found
            if (model_name is None or model.launch.name == model_name) and (model_uid is None or model.uid == model_uid)
        ]

    @router.get("/v1/models/{uid:uid}")
    async def describe(uid: str) -> dict[str, Any]:
        return (await known(backend, uid)).describe()

    @router.get("/v1/models/{uid:uid}/progress")
    async def progress(uid: str) -> dict[str, Any]:
        model = await backend.find(uid)
        return model.progressed() if model else {"progress": 0.0, "stage": "pending", "download_files": [], "replicas": []}

    @router.get("/v1/engines/{name}")
    @router.get("/v1/engines/LLM/{name}")
    async def engines(name: str) -> dict[str, list[dict[str, Any]]] | None:
        """None where there is no such model, as there."""
        if entries := catalogue.of(name):
            return {"Transformers": [_offer(entry.name, entry.size, SERVED) for entry in entries]}
        family = await backend.registry.find(name)
        if family is None:
            return None
        return {"Transformers": [_offer(name, spec.size, spec.quantizations) for spec in family.specs]}

    return router


def _offer(name: str, size: str, quantizations: tuple[str, ...]) -> dict[str, Any]:
    billions = written_size(size)
    offer: dict[str, Any] = {"model_name": name, "model_format": "pytorch", "model_size_in_billions": billions}
    return offer | {"quantizations": list(quantizations), "support_draft_model": False}
