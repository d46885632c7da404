"""A request's body on its way in: no more than it may be, alone and with the others, and no longer than it may take."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Message, Receive

from jitney_gateway.errors import GatewayError

MEBIBYTE = 1024 * 1024
# Of a request's head, in bytes.
LONGEST_HEAD = 16 * 1024
SIZE_SETTING, SECONDS_SETTING = "JITNEY_MAX_BODY_MEBIBYTES", "JITNEY_CLIENT_SECONDS"
ALL_SIZES_SETTING = "JITNEY_MAX_ALL_BODIES_MEBIBYTES"


class Bodies:
    """What all bodies have together, in bytes, from their arrival until their requests are answered."""

    def __init__(self, most_bytes: int) -> None:
        self.most, self.held = most_bytes, 0

    def add(self, count: int, mine: int) -> None:
        """GatewayError (503) where they would be too much. `mine` is what this one has already: one that is alone is always taken."""
        if self.held > mine and self.held + count > self.most:
            words = f"the requests under way have bodies of {self.most / MEBIBYTE:g} MiB together ({ALL_SIZES_SETTING}); try again"
            raise GatewayError(503, words, code="overloaded", retry_after=1)
        self.held += count

    def remove(self, count: int) -> None:
        self.held -= count


class Intake:
    """In place of the server's `receive`. Once the body is whole it only leads on, so that who listens for the client's going hears it."""

    def __init__(self, receive: Receive, most_bytes: int, seconds: float, bodies: Bodies) -> None:
        self._receive, self._most, self._seconds, self._bodies = receive, most_bytes, seconds, bodies
        self._read, self._counted, self._whole = 0, 0, False
        self._deadline = asyncio.get_running_loop().time() + seconds
        # Whether the client was too slow: then nothing more is to be waited for on this connection.
        self.late = False

    async def __call__(self) -> Message:
        """GatewayError (413, 503, 408) in place of what would be too much or too late."""
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self.late = True
            words = f"the request's body was not there within {self._seconds:g} s ({SECONDS_SETTING})"
            raise GatewayError(408, words, code="timeout") from None
        size = len(message.get("body", b""))
        self._read += size
        self._whole = not message.get("more_body", False)
        if self._read > self._most:
            raise too_large(self._most)
        self._bodies.add(size, self._counted)
        self._counted += size
        return message

    async def drop(self) -> None:
        """Read what is still to come of a body that nobody wants, within its bounds, and keep none of it."""
        with contextlib.suppress(GatewayError):
            while (await self())["type"] == "http.request" and not self._whole:
                self.forget()

    def forget(self) -> None:
        """Its body is kept nowhere any more. Safe to repeat."""
        self._bodies.remove(self._counted)
        self._counted = 0


def too_large(most_bytes: int) -> GatewayError:
    return GatewayError(413, f"the body is longer than {most_bytes / MEBIBYTE:g} MiB ({SIZE_SETTING})", code="too_large")
