"""How long a connection is kept for a client that says nothing whole.

uvicorn waits for a request's head for ever, and drops what still comes of a body that nobody wants for as long as it comes. The body of a
request that is being answered is the intake's.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class PatientProtocol(H11Protocol):
    """It closes a connection on which for `seconds` a head was waited for, or a body dropped."""

    seconds: ClassVar[float] = 60

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waiting: asyncio.TimerHandle | None = None
        self._begun = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        self._begun = True
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # Between two requests the server's own, shorter patience counts, until the first byte of the next.
        self._stop()
        self._begun = False
        if self._dropping():
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """From the first byte, and not from the last."""
        if not (self.conn.their_state is h11.IDLE or self._dropping()):
            self._stop()
        elif self._waiting is None and not self.transport.is_closing():
            self._waiting = self.loop.call_later(self.seconds, self._close)

    def _dropping(self) -> bool:
        return self.conn.their_state is h11.SEND_BODY and self.conn.our_state in (h11.DONE, h11.MUST_CLOSE)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _close(self) -> None:
        self._waiting = None
        if self.transport.is_closing():
            return
        if self._begun and self.conn.their_state is h11.IDLE:
            self.transport.write(LATE)
        self.transport.close()


def patient(wait: float) -> type[PatientProtocol]:
    """The protocol with this many seconds of patience; uvicorn takes a class."""

    class Patient(PatientProtocol):
        seconds = wait

    return Patient
