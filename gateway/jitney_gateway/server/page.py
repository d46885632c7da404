"""The page at `/`: files of this package, given out with headers that let the browser load nothing else and run nothing inline. The guard
adds one that every answer has."""

from __future__ import annotations

import hashlib
from importlib import resources

from fastapi import APIRouter, Request
from fastapi.responses import Response

from jitney_gateway.errors import GatewayError

TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        # What a model writes becomes text, never markup: the browser itself refuses innerHTML.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept, and asked for again by its tag: after an upgrade nobody has half of two pages.
    "Cache-Control": "no-cache",
}


class Files:
    """Read once, when the front door begins."""

    def __init__(self) -> None:
        folder = resources.files("jitney_gateway").joinpath("page")
        self._bodies = {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in TYPES}
        self._tags = {name: f'"{hashlib.sha256(body).hexdigest()[:32]}"' for name, body in self._bodies.items()}

    def answer(self, name: str, request: Request) -> Response:
        """GatewayError (404) where there is no such file."""
        if name not in self._bodies:
            raise GatewayError(404, f"there is no page {name}; the page is at /", code="not_found")
        headers = HEADERS | {"ETag": self._tags[name]}
        known = request.headers.get("if-none-match", "")
        if self._tags[name] in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=headers)
        return Response(self._bodies[name], headers=headers, media_type=TYPES[name.rpartition(".")[2]])


def routes() -> APIRouter:
    router, files = APIRouter(), Files()

    @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        return files.answer("index.html", request)

    @router.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def file(name: str, request: Request) -> Response:
        return files.answer(name, request)

    return router
