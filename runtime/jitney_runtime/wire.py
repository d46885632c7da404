"""Messages between this process and one that it made itself: pickles behind their length, over a pair of sockets."""

from __future__ import annotations

import pickle
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

_LENGTH = struct.Struct("<I")
_PART = 1 << 16


def framed(message: object) -> bytes:
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class Unframed:
    """Bytes in as they come, whole messages out."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, part: bytes) -> Iterator[Any]:
        self._bytes += part
        while len(self._bytes) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._bytes)[0]
            if len(self._bytes) < end:
                return
            body = bytes(self._bytes[_LENGTH.size : end])
            del self._bytes[:end]
            yield pickle.loads(body)


class Wire:
    """One end of it, for threads: any may send, one reads."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._sending = threading.Lock()
        self._unframed = Unframed()

    def send(self, message: object) -> None:
        with self._sending:
            self.connection.sendall(framed(message))

    def messages(self) -> Iterator[Any]:
        """Until the other end is gone. One that was begun goes on where another reader left it."""
        while part := self._part():
            yield from self._unframed.add(part)

    def _part(self) -> bytes:
        try:
            return self.connection.recv(_PART)
        except ConnectionResetError:
            return b""
