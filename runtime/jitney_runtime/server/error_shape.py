"""OpenAI's error shape, for every refusal; the sentence is also where Xinference's clients look for it, behind a front door."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse

from jitney_runtime.errors import RequestError


def error_body(message: str, kind: str, param: str | None, code: str) -> dict[str, Any]:
    # What a template says may hold half a character of the client's, which UTF-8 cannot write.
    message = message.encode("utf-8", "backslashreplace").decode()
    return {"detail": message, "error": {"message": message, "type": kind, "param": param, "code": code}}


def error_response(error: RequestError, headers: dict[str, str] | None = None) -> JSONResponse:
    """With Retry-After where trying again helps."""
    retry = getattr(error, "retry_after", None)
    headers = (headers or {}) | ({"Retry-After": str(retry)} if retry else {})
    return JSONResponse(error_body(error.message, error.kind, error.param, error.code), error.status, headers)
