"""Bodies of requests; the intake bounds them."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from jitney_gateway.errors import GatewayError
from jitney_gateway.server import cost


async def read(request: Request) -> bytes:
    """The request keeps none of it: an answer may take minutes, and a thousand of them are open."""
    parts = bytearray()
    try:
        async for part in request.stream():
            parts += part
    except ClientDisconnect as error:
        # Nobody reads this.
        raise GatewayError(400, "the client went away before the end of the body", code="invalid_json") from error
    return bytes(parts)


async def json_body(request: Request) -> Any:
    """GatewayError (400) where it is no JSON."""
    return parsed(await read(request))


def parsed(body: bytes) -> Any:
    """GatewayError (400) where it is no JSON, or would cost too much to read."""
    if json.detect_encoding(body) not in ("utf-8", "utf-8-sig"):
        raise GatewayError(400, "the body is no JSON: it must be UTF-8", code="invalid_json")
    if words := cost.refusal(body):
        raise GatewayError(400, f"the body {words}: send a smaller one", code="invalid_json")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise GatewayError(400, f"the body is no JSON: {error}", code="invalid_json") from error
