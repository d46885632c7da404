"""Custom models: registered, listed, told and forgotten, by the routes of Xinference's RESTful client."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from jitney_gateway.backend import Backend
from jitney_gateway.catalogue import Catalogue, Entry
from jitney_gateway.errors import bad_field
from jitney_gateway.family import Family, taken, unknown
from jitney_gateway.launch import Launch
from jitney_gateway.model import written_size
from jitney_gateway.server import audit, wanted
from jitney_gateway.server.body import json_body

KIND = "LLM"
# Of one family's JSON.
LONGEST = 64 * 1024
# What its clients read of every family and every spec, where it was not said.
OF_FAMILY: dict[str, Any] = {"version": 2, "context_length": None, "model_lang": ["en"], "model_ability": ["chat", "generate"]}
OF_FAMILY |= {"model_description": None, "model_family": None, "chat_template": None, "stop_token_ids": None, "stop": None}
OF_FAMILY |= {"architectures": None, "reasoning_start_tag": None, "reasoning_end_tag": None, "tool_parser": None}
OF_FAMILY |= {"cache_config": None, "virtualenv": None}
OF_SPEC: dict[str, Any] = {"quantization": "none", "model_id": None, "model_hub": "huggingface", "model_uri": None, "model_revision": None}
OF_SPEC |= {"activated_size_in_billions": None}
# Of Xinference, and not served here.
OTHER_KINDS = ("embedding", "rerank", "image", "audio", "video", "flexible", "world")


def routes(backend: Backend, catalogue: Catalogue) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/model_registrations/{kind}", openapi_extra=wanted.REGISTRATION)
    async def register(kind: str, request: Request) -> JSONResponse:
        with audit.line("register", "") as line:
            _check_kind(kind)
            family, persist = _asked(await json_body(request))
            line |= {"model": family.name, "persist": persist}
            if catalogue.of(family.name):
                raise taken(family.name)
            await backend.registry.add(family, persist)
        return JSONResponse(None)

    @router.get("/v1/model_registrations/{kind}")
    async def registrations(kind: str, detailed: bool = False) -> list[dict[str, Any]]:
        if kind in OTHER_KINDS:
            return []
        _check_kind(kind)
        names = dict.fromkeys(entry.name for entry in catalogue.entries)
        found = [_told(family) for family in await backend.registry.families()] + [_built_in(catalogue.of(name)) for name in names]
        found.sort(key=lambda family: str(family["model_name"]).lower())
        return found if detailed else [{key: family[key] for key in ("model_name", "is_builtin")} for family in found]

    @router.get("/v1/model_registrations/{kind}/{name}")
    async def registration(kind: str, name: str) -> dict[str, Any]:
        _check_kind(kind)
        if entries := catalogue.of(name):
            return _built_in(entries)
        family = await backend.registry.find(name)
        if family is None:
            raise unknown(name)
        return _told(family)

    @router.delete("/v1/model_registrations/{kind}/{name}")
    async def unregister(kind: str, name: str) -> JSONResponse:
        _check_kind(kind)
        with audit.line("unregister", name):
            if catalogue.of(name):
                raise bad_field("model_name", f"{name} is built in and cannot be unregistered")
            await backend.registry.remove(name)
        return JSONResponse(None)

    return router


async def resolved(launch: Launch, backend: Backend, catalogue: Catalogue) -> Launch:
    """A launch by the name of a custom model with what was registered; any other as it is."""
    if "/" in launch.name or catalogue.of(launch.name):
        return launch
    family = await backend.registry.find(launch.name)
    return family.applied(launch) if family else launch


def _asked(body: object) -> tuple[Family, bool]:
    if not isinstance(body, dict):
        raise bad_field("model", "the body must be a JSON object with the family as a text in it")
    given = {name: value for name, value in body.items() if value is not None}
    if isinstance(text := given.pop("model", None), str) and len(text) > LONGEST:
        raise bad_field("model", f"must be at most {LONGEST} characters of JSON")
    family = Family.read(text)
    persist = given.pop("persist", True)
    if not isinstance(persist, bool):
        raise bad_field("persist", f"must be true or false, not {persist!r}")
    for key in given:
        raise bad_field(key, "there are no workers to choose from" if key == "worker_ip" else "this is no field of a registration")
    return family, persist


def _check_kind(kind: str) -> None:
    if kind != KIND:
        raise bad_field("model_type", f"only chat models are served: {KIND}, not {kind}")


def _told(family: Family) -> dict[str, Any]:
    """As it was registered; what was left out is there with what it means. It may be registered again as it is told."""
    return _whole(family.told())


def _whole(family: dict[str, Any]) -> dict[str, Any]:
    return OF_FAMILY | family | {"model_specs": [OF_SPEC | spec for spec in family["model_specs"]]}


def _built_in(entries: tuple[Entry, ...]) -> dict[str, Any]:
    """One of the catalogue's in the form of a family."""
    family = {
        "version": 2,
        "context_length": max(entry.context for entry in entries),
        "model_name": entries[0].name,
        "model_lang": ["en"],
        "model_ability": ["chat", "generate"],
        "model_description": "",
        "model_family": entries[0].name,
        "model_specs": [
            {
                "model_format": "pytorch",
                "model_size_in_billions": written_size(entry.size),
                "quantization": "none",
                "model_id": entry.repository,
                "model_hub": "huggingface",
                "model_uri": None,
                "model_revision": entry.revision,
            }
            for entry in entries
        ],
        "is_builtin": True,
    }
    return _whole(family)
