"""Messages between two processes, however the sockets cut them."""

from __future__ import annotations

import socket
import threading

import pytest

from jitney_runtime.engine.link import Abort, Add
from jitney_runtime.engine.sequence import SamplingParams
from jitney_runtime.wire import Unframed, Wire, framed

MESSAGES = [Abort("a"), Add("b", list(range(100_000)), SamplingParams(5), 7, 0.5), Abort(""), None]


@pytest.mark.parametrize("size", [1, 3, 4, 5, 1000, 10**9])
def test_messages_come_whole(size: int):
    stream, unframed = b"".join(map(framed, MESSAGES)), Unframed()
    parts = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert [message for part in parts for message in unframed.add(part)] == MESSAGES


def test_many_send_and_the_end_is_heard():
    one, other = map(Wire, socket.socketpair())
    senders = [threading.Thread(target=lambda: [one.send(message) for message in MESSAGES]) for _ in range(4)]
    for sender in senders:
        sender.start()
    reading = other.messages()
    found = [next(reading) for _ in range(4 * len(MESSAGES))]
    for sender in senders:
        sender.join()
    one.connection.close()
    assert list(reading) == []
    assert all(found.count(message) == 4 for message in MESSAGES)
