"""Uids in paths. One of another namespace is `namespace/name`, which clients write with its slash as it is or quoted, %2F.

A quoted slash is always part of the uid; one as it is also, unless what follows it is what is asked of a model: /v1/models/a/logs are
the logs of a, and /v1/models/a%2Flogs is the model logs of the namespace a.
"""

from __future__ import annotations

from urllib.parse import quote, unquote

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.convertors import Convertor, register_url_convertor
from starlette.routing import Match
from starlette.types import Scope

ASKED = ("cancel", "events", "logs", "progress", "reload", "replicas", "requests")
# Stands for a quoted slash while a path is matched; no uid may hold it.
SLASH = "\N{FRACTION SLASH}"


class _Uid(Convertor[str]):
    regex = rf"[^/]+(?:/(?!(?:{'|'.join(ASKED)})(?:/|$))[^/]+)?"

    def convert(self, value: str) -> str:
        return value.replace(SLASH, "/")

    def to_string(self, value: str) -> str:
        return quote(value, safe="")


# Written {uid:uid} in a path.
register_url_convertor("uid", _Uid())


class _Route(APIRoute):
    """Sees the path as it was sent: the server has unquoted it."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        sent = scope.get("raw_path") if scope["type"] == "http" else None
        if sent and b"%2f" in sent.lower():
            plain = sent.replace(b"%2f", b"%2F").replace(b"%2F", quote(SLASH).encode())
            scope = {**scope, "path": unquote(plain.decode("latin-1"))}
        return super().matches(scope)


def by_uid() -> APIRouter:
    """A router for paths with {uid:uid}."""
    return APIRouter(route_class=_Route)
