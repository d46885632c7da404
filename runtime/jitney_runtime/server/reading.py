"""A request's body, from its bytes to an object whose fields are of the right types. What reading it may cost is bounded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from jitney_runtime.errors import InvalidRequest
from jitney_runtime.server.body import Body

B = TypeVar("B", bound=Body)

# The front door's usual bound is 8 MiB, and a character may take it three times as many bytes to pass on as it took to come.
MOST_BYTES = 32 * 1024 * 1024
# Lists, objects and names in objects; texts, names among them; and values in lists and objects. The first cost the most: a million of them
# is half a second in which nothing else is done, and a hundred times the memory of their text. 1,100,000 values are the token ids of a
# prompt that fills the longest windows, and take a tenth of a second.
MOST_PLACES, MOST_TEXTS, MOST_VALUES = 50_000, 300_000, 1_100_000
# Checking a longer body would hold up everybody's stream: it goes to a thread.
_LONG_BODY = 32 * 1024


async def read(kind: type[B], http: Request) -> tuple[B, int]:
    """The body as a `kind`, and its length in bytes. InvalidRequest or HTTPException (413, and 400 where it was cut) where it is none."""
    form = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if form != "application/json" and not (form.startswith("application/") and form.endswith("+json")):
        raise InvalidRequest("the body must be JSON, and sent as such: Content-Type: application/json")
    data = await _received(http)
    return await run_in_threadpool(_understood, kind, data) if len(data) > _LONG_BODY else _understood(kind, data), len(data)


async def _received(http: Request) -> bytes:
    data = bytearray()
    try:
        async for part in http.stream():
            data += part
            if len(data) > MOST_BYTES:
                raise HTTPException(413, f"the body is longer than {MOST_BYTES // 2**20} MiB")
    except ClientDisconnect as error:
        # Nobody reads it, and it is no defect of ours.
        raise HTTPException(400, "the client went away before the end of the body") from error
    return bytes(data)


def _understood(kind: type[B], data: bytes) -> B:
    if not data:
        raise InvalidRequest("the body is empty, and a JSON object is required")
    found = parsed(data)
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        # Only the first is told.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        message, place = str(first["msg"]).removeprefix("Value error, "), _place(first["loc"])
        raise InvalidRequest(f"{place}: {message}" if place else f"the body: {message}", place or None) from error


def parsed(data: bytes) -> Any:
    """InvalidRequest where it is no JSON, or would cost too much to read."""
    if json.detect_encoding(data) not in ("utf-8", "utf-8-sig"):
        raise InvalidRequest("the body is no valid JSON: it must be UTF-8")
    if is_costly(data):
        raise InvalidRequest(
            f"the body has more than {MOST_PLACES} lists, objects and names in them, {MOST_TEXTS} texts or {MOST_VALUES} values: "
            "send a smaller one"
        )
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        raise InvalidRequest(f"the body is no valid JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise InvalidRequest("the body is no valid JSON for us: it is nested too deeply") from error
    except ValueError as error:
        # Bytes that are no UTF-8, a number of thousands of digits.
        raise InvalidRequest(f"the body is no valid JSON: {error}") from error


def is_costly(data: bytes) -> bool:
    """Counts what its objects would be, by the signs between them: parsing cannot be interrupted, by a thread neither."""
    if _is_much(data):
        # Those inside of texts are none. Without escapes every quote begins a text or ends one.
        bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
        return _has_many_texts(bare) or _is_much(b"".join(bare.split(b'"')[::2]))
    return False


def _is_much(text: bytes) -> bool:
    opened = text.count(b"[") + text.count(b"{")
    return opened + text.count(b":") > MOST_PLACES or opened + text.count(b",") > MOST_VALUES or _has_many_texts(text)


def _has_many_texts(text: bytes) -> bool:
    return text.count(b'"') > 2 * MOST_TEXTS


def _place(parts: Iterable[str | int]) -> str:
    """As OpenAI writes it: messages[0].content."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")
