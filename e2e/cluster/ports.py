"""TCP ports that nobody listens on."""

from __future__ import annotations

import contextlib
import random
import socket

# Below the range of NodePorts and that of outgoing connections: one of those could take a port between its choice and its use.
LOWEST, HIGHEST = 20_000, 30_000


def free(count: int) -> list[int]:
    """`count` different ports, free on every address; all are held until the last is found, so that none is named twice."""
    held: list[socket.socket] = []
    try:
        for port in random.sample(range(LOWEST, HIGHEST), HIGHEST - LOWEST):
            if len(held) == count:
                break
            with contextlib.suppress(OSError):
                held.append(socket.create_server(("", port)))
        return [server.getsockname()[1] for server in held]
    finally:
        for server in held:
            server.close()


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """True when something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
