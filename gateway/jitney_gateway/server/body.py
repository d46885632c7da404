"""Bodies of requests, read with a bound."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Request

from jitney_gateway.errors import GatewayError

# As much as the runtime takes.
MOST_BYTES = 16 * 1024 * 1024


async def read(request: Request) -> bytes:
    """GatewayError (413) where it is longer than MOST_BYTES, without reading the rest."""
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > MOST_BYTES:
            raise GatewayError(413, f"the body is longer than {MOST_BYTES // 1024**2} MiB", code="too_large")
    return bytes(parts)


async def json_body(request: Request) -> Any:
    """GatewayError (400) where it is no JSON."""
    try:
        return json.loads(await read(request))
    except (ValueError, RecursionError) as error:
        raise GatewayError(400, f"the body is no JSON: {error}", code="invalid_json") from error
