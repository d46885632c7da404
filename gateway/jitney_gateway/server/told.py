"""An error as it is answered: Xinference's clients read `detail`, OpenAI's read `error`, and both are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi.responses import JSONResponse

from jitney_gateway.errors import LEAVING, GatewayError


def answer(error: GatewayError, more: Mapping[str, str] | None = None) -> JSONResponse:
    """`more` are headers that this error has beside the usual ones."""
    headers = dict(more or {})
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.code == LEAVING:
        # The next connection leads to another front door.
        headers["Connection"] = "close"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(body(error), error.status, headers)


def body(error: GatewayError) -> dict[str, Any]:
    """Also of an event in a stream that cannot go on."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"detail": error.detail, "error": {"message": error.detail, "type": kind, "param": None, "code": error.code or None}}
