"""What a model's runtime writes, as text, as it comes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from jitney_gateway.backend import Backend
from jitney_gateway.server.uids import by_uid

MOST_LINES = 100_000
# Of a pod; and int() reads a number of so many digits.
LONGEST_NAME = 253


def routes(backend: Backend) -> APIRouter:
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
