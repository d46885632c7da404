"""TCP ports that nobody listens on."""

from __future__ import annotations

import socket


def free(count: int) -> list[int]:
    """`count` different ports; all are held until the last is found, so that none is named twice."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """True when something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
