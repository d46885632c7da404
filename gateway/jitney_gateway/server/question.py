"""A question to a runtime, from the client's request to the answer's last byte. It may be ended from outside at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

from fastapi import Request

from jitney_gateway.errors import GatewayError

T = TypeVar("T")


class Ended(Exception):
    """The question was ended before its work was done."""


class Question:
    """Lives on the event loop. Its work is done in the caller's own task, which `end` interrupts as a timeout would: a task for each piece
    of an answer would cost a quarter of what passing it on does."""

    def __init__(self) -> None:
        # Why it was ended, for who waits for its answer.
        self.error = GatewayError(499, "the request was aborted", code="aborted")
        self._over = False
        self._waiting: asyncio.Task[Any] | None = None
        self._interrupted = False

    def end(self, error: GatewayError | None = None) -> None:
        """By its client, or for `error`. Safe to repeat: the first end counts. Called by another task than the one that waits."""
        if error and not self._over:
            self.error = error
        self._over = True
        if self._waiting and not self._interrupted:
            self._interrupted = self._waiting.cancel()

    async def end_with_client(self, request: Request) -> None:
        """Runs until the client goes away; its body must have been read."""
        while (await request.receive())["type"] != "http.disconnect":
            pass
        self.end()

    async def wait_with_client(self, request: Request, work: Awaitable[T]) -> T:
        """As `wait`, and the client's going ends the question."""
        leaving = asyncio.create_task(self.end_with_client(request))
        try:
            return await self.wait(work)
        finally:
            leaving.cancel()

    async def wait(self, work: Awaitable[T]) -> T:
        """The work's result; Ended, and the work is cancelled, where the question ends first. One piece of work at a time."""
        if self._over:
            if isinstance(work, Coroutine):
                work.close()
            raise Ended
        task = self._waiting = asyncio.current_task()
        assert task
        # Whoever else cancels the task is not to be taken for an end.
        others = task.cancelling()
        try:
            return await work
        except asyncio.CancelledError:
            if self._interrupted and task.cancelling() == others + 1:
                raise Ended from None
            raise
        finally:
            self._waiting = None
            if self._interrupted:
                task.uncancel()
