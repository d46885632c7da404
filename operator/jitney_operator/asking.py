"""Questions to pods over HTTP, as the operator's scrapes ask them."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

import aiohttp

from jitney_operator.api import PORT
from jitney_operator.observed import Pod

logger = logging.getLogger(__name__)

# Whether a pod answers is no secret to wait for: the next round asks again.
TIMEOUT = 1.0
AT_ONCE = 32


class Asking:
    """Used as an async context manager by one scrape, on the main loop."""

    async def __aenter__(self) -> Self:
        # Who waits for his turn waits outside of the request, whose second is for the pod alone: pods that drop packets starve nobody.
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._client = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=TIMEOUT), trust_env=False
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._client.close()

    async def ask(self, pod: Pod, path: str, most: int) -> bytes | None:
        """The first `most` bytes of the answer's body, whatever its status; None without an answer.

        No failure is an error here: its server is not up yet, no route leads there from where this runs, or the image is somebody's own
        and answers whatever it likes. One pod must not end the asking of all. Redirects are not followed: they would lead elsewhere.
        """
        host = f"[{pod.address}]" if pod.address and ":" in pod.address else pod.address
        try:
            async with self._turns, self._client.get(f"http://{host}:{PORT}{path}", allow_redirects=False) as response:
                return await _read(response.content, most)
        except Exception as error:
            logger.debug("%s does not answer: %s", pod.name, error)
            return None


async def _read(content: aiohttp.StreamReader, most: int) -> bytes:
    parts = bytearray()
    while len(parts) < most and (part := await content.read(most - len(parts))):
        parts += part
    return bytes(parts)
