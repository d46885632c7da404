"""A request's body on its way in: no more than it may be, and no longer than it may take."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive

from jitney_gateway.errors import GatewayError

MEBIBYTE = 1024 * 1024
# Of a request's head, in bytes.
LONGEST_HEAD = 16 * 1024
SIZE_SETTING, SECONDS_SETTING = "JITNEY_MAX_BODY_MEBIBYTES", "JITNEY_CLIENT_SECONDS"


class Intake:
    """In place of the server's `receive`. Once the body is whole it only leads on, so that who listens for the client's going hears it."""

    def __init__(self, receive: Receive, most_bytes: int, seconds: float) -> None:
        self._receive, self._most, self._seconds = receive, most_bytes, seconds
        self._read, self._whole = 0, False
        self._deadline = asyncio.get_running_loop().time() + seconds
        # Whether the client was too slow: then nothing more is to be waited for on this connection.
        self.late = False

    async def __call__(self) -> Message:
        """GatewayError (413, 408) in place of what would be too much or too late."""
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            self.late = True
            words = f"the request's body was not there within {self._seconds:g} s ({SECONDS_SETTING})"
            raise GatewayError(408, words, code="timeout") from None
        self._read += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._read > self._most:
            raise too_large(self._most)
        return message


def too_large(most_bytes: int) -> GatewayError:
    return GatewayError(413, f"the body is longer than {most_bytes / MEBIBYTE:g} MiB ({SIZE_SETTING})", code="too_large")
