"""The other front doors behind one address. Each knows its own questions only, and an abort may reach another one than its question.
And each counts for itself what a key has used: how many there are says how much of its limit each may give.

They are found by a name that leads to each of them, as a headless Service's does, and told of an abort as the client asked for it, with its
own key.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
from fastapi import Request
from yarl import URL

# A front door that is asked by another one asks nobody.
ASKED = "x-jitney-peer"
SECONDS = 5.0
# For a word on whether it is ready.
READY_SECONDS = 2.0


class Peers:
    def __init__(self, name: str = "") -> None:
        """`name` is host:port; empty where there are no others."""
        self._name = name

    @property
    def named(self) -> bool:
        return bool(self._name)

    async def ready(self, client: aiohttp.ClientSession) -> int:
        """How many front doors take requests, this one among them; 0 where none is heard."""
        there = [address async for address in self._addresses()]
        # With two families of addresses each front door has one of each.
        families = ([address for address in there if ("[" in address) is six] for six in (False, True))
        counts = [sum(await asyncio.gather(*(_is_ready(client, address) for address in family))) for family in families]
        return max(counts)

    async def abort(self, client: aiohttp.ClientSession, request: Request, seconds: float) -> bool:
        """Whether one of them had the question and has ended it. One that does not answer in time has not. Those that have none refuse one
        that comes within `seconds`."""
        if not self._name or ASKED in request.headers:
            return False
        headers = {ASKED: "1"} | ({"Authorization": key} if (key := request.headers.get("authorization")) else {})
        path = request.scope["raw_path"].decode("latin-1")
        body = {"block_duration": seconds}
        asked = [_ask(client, URL(f"{address}{path}", encoded=True), body, headers) async for address in self._addresses()]
        return any(await asyncio.gather(*asked))

    async def _addresses(self) -> AsyncIterator[str]:
        """This one is among them: it has nothing to tell itself, and its own address is not known here."""
        host, _, port = self._name.rpartition(":")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except OSError:
            return
        for address in dict.fromkeys(str(entry[4][0]) for entry in found):
            yield f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


async def _is_ready(client: aiohttp.ClientSession, address: str) -> bool:
    try:
        async with client.get(f"{address}/readyz", timeout=aiohttp.ClientTimeout(total=READY_SECONDS)) as answer:
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _ask(client: aiohttp.ClientSession, url: URL, body: dict[str, float], headers: dict[str, str]) -> bool:
    try:
        async with client.post(url, json=body, headers=headers, timeout=aiohttp.ClientTimeout(total=SECONDS)) as answer:
            return answer.status == 200 and bool((await answer.json()).get("msg") == "DONE")
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return False
