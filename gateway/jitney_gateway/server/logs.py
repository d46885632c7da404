"""What a model's runtime writes, as text, as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Protocol

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from jitney_gateway.server.uids import by_uid

MOST_LINES = 100_000
# Of a pod; and int() reads a number of so many digits.
LONGEST_NAME = 253


class Logged(Protocol):
    """The part of a Backend that knows logs."""

    async def log(self, uid: str, replica: str | None, lines: int, follow: bool) -> AsyncIterator[bytes]:
        """The last `lines` of one replica, by default the first; with `follow` also what it writes from now on, until it is gone.
        GatewayError where there is no such model or replica."""
        ...


def routes(backend: Logged) -> APIRouter:
    router = by_uid()

    @router.get("/v1/models/{uid:uid}/logs")
    async def logs(
        uid: str,
        replica: Annotated[str | None, Query(max_length=LONGEST_NAME)] = None,
        lines: Annotated[int, Query(ge=0, le=MOST_LINES)] = 200,
        follow: bool = False,
    ) -> StreamingResponse:
        return StreamingResponse(await backend.log(uid, replica, lines, follow), media_type="text/plain; charset=utf-8")

    return router
