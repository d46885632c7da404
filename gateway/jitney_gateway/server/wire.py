"""The connections to runtimes: near, as many as there are questions, and noticed when the other end is gone without a word."""

from __future__ import annotations

import socket

import aiohttp

# A pod is near: one whose node is gone must not keep a question from the others for long.
CONNECT_SECONDS = 3.0
# A runtime closes what was idle for 5 seconds. Kept for less, a connection is never closed at the moment at which it is used again.
IDLE_SECONDS = 3.0
# A node that dies says nothing, and an answer may rightly be silent for minutes: the kernel asks whether the other end is there.
PROBE_AFTER, PROBE_EVERY, PROBES = 15, 5, 3


def session() -> aiohttp.ClientSession:
    """Without a limit of time: an answer takes as long as it takes. No answer leaves a cookie for the next question, which
    is another client's."""
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS, socket_factory=_probed)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
    return aiohttp.ClientSession(connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar())


def _probed(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol = address[:3]
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_AFTER)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_EVERY)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)
    # The same for what was sent and is not acknowledged, where probes are not made; in milliseconds.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * (PROBE_AFTER + PROBE_EVERY * PROBES))
    return made
