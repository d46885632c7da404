"""One question to a pod over HTTP, as the operator's scrapes ask it."""

from __future__ import annotations

import logging

import aiohttp

from jitney_operator.api import PORT
from jitney_operator.observed import Pod

logger = logging.getLogger(__name__)

# Whether a pod answers is no secret to wait for: the next round asks again.
TIMEOUT = 1.0
AT_ONCE = 32


def session() -> aiohttp.ClientSession:
    """For all questions of one scrape; used as a context manager."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE), timeout=aiohttp.ClientTimeout(total=TIMEOUT))


async def ask(client: aiohttp.ClientSession, pod: Pod, path: str, most: int) -> bytes | None:
    """The first `most` bytes of the answer's body, whatever its status; None without an answer.

    No failure is an error here: its server is not up yet, no route leads there from where this runs, or the image is somebody's own and
    answers whatever it likes. One pod must not end the asking of all.
    """
    host = f"[{pod.address}]" if pod.address and ":" in pod.address else pod.address
    try:
        async with client.get(f"http://{host}:{PORT}{path}", allow_redirects=False) as response:
            return await _read(response.content, most)
    except Exception as error:
        logger.debug("%s does not answer: %s", pod.name, error)
        return None


async def _read(content: aiohttp.StreamReader, most: int) -> bytes:
    parts = bytearray()
    while len(parts) < most and (part := await content.read(most - len(parts))):
        parts += part
    return bytes(parts)
