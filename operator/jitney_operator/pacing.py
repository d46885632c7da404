"""Slows down watches that the server, or something in between, closes at once: kopf opens them again without a pause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse

# Seconds between two watch requests for one kind.
PACE = 1.0


class Pacing:
    """An aiohttp client middleware. `relisted` is called when a kind is listed again, which loses deletions."""

    def __init__(self, relisted: Callable[[], None]) -> None:
        self._relisted = relisted
        self._next: dict[str, float] = {}
        self._listed: set[str] = set()

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        if request.url.query.get("watch") == "true":
            await self._wait(request.url.path)
        elif request.method == "GET":
            self._notice(request.url.path)
        return await handler(request)

    async def _wait(self, path: str) -> None:
        now = asyncio.get_running_loop().time()
        turn = max(now, self._next.get(path, now))
        self._next[path] = turn + PACE
        await asyncio.sleep(turn - now)

    def _notice(self, path: str) -> None:
        if path in self._listed:
            self._relisted()
        self._listed.add(path)
