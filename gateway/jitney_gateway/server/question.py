"""A question to a runtime, from the client's request to the answer's last byte. It may be ended from outside at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

T = TypeVar("T")


class Ended(Exception):
    """The question was ended before its work was done."""


class Question:
    """Lives on the event loop."""

    def __init__(self) -> None:
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        """Safe to repeat."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def end_with_client(self, request: Request) -> None:
        """Runs until the client goes away; its body must have been read."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.end()

    async def wait(self, work: Awaitable[T]) -> T:
        """The work's result; Ended, and the work is cancelled, where the question ends first."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Ended
            return task.result()
        finally:
            task.cancel()
