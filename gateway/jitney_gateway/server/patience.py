"""How long a connection is kept for a client that says nothing whole, or reads nothing.

uvicorn waits for a request's head for ever, drops what still comes of a body that nobody wants for as long as it comes, and waits for ever
for a client to read its answer. The body of a request that is being answered is the intake's.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import sys
import termios
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class PatientProtocol(H11Protocol):
    """It closes a connection on which for `seconds` a head was waited for, or a body dropped, or of an answer nothing was taken."""

    seconds: ClassVar[float] = 60

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._waiting: asyncio.TimerHandle | None = None
        self._begun = False
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Whatever the kernel does not take at once is waited for, and watched.
        transport.set_write_buffer_limits(high=0)
        self._watch()

    def pause_writing(self) -> None:
        """What is to be written waits for the client from now on."""
        super().pause_writing()
        if self._stalled is None:
            self._look_again(unread(self.transport))

    def resume_writing(self) -> None:
        super().resume_writing()
        self._taken()

    def _look_again(self, left: int) -> None:
        self._stalled = self.loop.call_later(self.seconds, self._look, left)

    def _look(self, before: int) -> None:
        """A client that reads slowly takes some of it in that time; of one that reads nothing the connection is cut, which ends the answer,
        and what it is made of, at its source."""
        self._stalled = None
        if (left := unread(self.transport)) < before:
            self._look_again(left)
        else:
            self.transport.abort()

    def _taken(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

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
        self._taken()
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


def unread(transport: asyncio.Transport) -> int:
    """Bytes that were written and that the other end has not taken: ours, and on Linux the kernel's, which it moves in large steps only."""
    waiting, connection = transport.get_write_buffer_size(), transport.get_extra_info("socket")
    if sys.platform != "linux" or connection is None or connection.fileno() < 0:
        return waiting
    (queued,) = struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
    return waiting + int(queued)


def patient(wait: float) -> type[PatientProtocol]:
    """The protocol with this many seconds of patience; uvicorn takes a class."""

    class Patient(PatientProtocol):
        seconds = wait

    return Patient
