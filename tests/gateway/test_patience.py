"""What a front door keeps for clients that go, that read nothing, or that send much: real sockets before a real server, and behind it a
runtime that talks without an end, or none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from jitney_gateway.backend import Backend
from jitney_gateway.bell import Bell
from jitney_gateway.catalogue import Catalogue
from jitney_gateway.destination import Destination, Prospect
from jitney_gateway.errors import GatewayError
from jitney_gateway.launch import Launch
from jitney_gateway.server import app
from jitney_gateway.server.guard import Terms
from jitney_gateway.server.intake import MEBIBYTE
from jitney_gateway.server.patience import patient

SECONDS = 1.0
LAUNCH = {"model_engine": "transformers", "model_name": "org/m"}


class Stub(Backend):
    """One model, at `addresses` or asleep for ever, and launches that never come or fail."""

    def __init__(self, *addresses: str, fails: bool = False) -> None:
        self._found, self._fails = Destination("m", "m", addresses, Prospect.COMING, "words"), fails
        self.waited_for, self.left, self.ended = asyncio.Event(), asyncio.Event(), list[str]()

    def destination(self, uid: str) -> Destination | None:
        return self._found if uid == "m" else None

    def uids(self) -> list[str]:
        return ["m"]

    async def moved(self) -> None:
        await Bell().wait()

    def unready(self) -> str:
        return ""

    async def launch(self, launch: Launch) -> str:
        return "m"

    async def ready(self, uid: str) -> None:
        if self._fails:
            raise GatewayError(500, "it does not load", code="launch_failed")
        self.waited_for.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def terminate(self, uid: str) -> None:
        self.ended.append(uid)


@asynccontextmanager
async def serving(backend: Backend, terms: Terms | None = None) -> AsyncIterator[int]:
    """Its port."""
    made = app.make(backend, Catalogue.read(), terms=terms)
    server = uvicorn.Server(uvicorn.Config(made, log_config=None, http=patient(SECONDS)))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = asyncio.create_task(server.serve([listener]))
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            await running


def request(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


async def sent(port: int, data: bytes, window: int | None = None) -> socket.socket:
    """A connection on which it was sent. `window` is how much may lie here unread."""
    connection = socket.socket()
    if window:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", port))
    await loop.sock_sendall(connection, data)
    return connection


# Answers that are not read


async def test_a_client_that_reads_nothing_is_cut_and_one_that_reads_slowly_is_not():
    """And the runtime is rid of it."""
    ended = {"silent": asyncio.Event(), "slow": asyncio.Event()}
    event = b"data: " + json.dumps({"choices": [{"delta": {"content": "x" * 16_000}}]}).encode() + b"\n\n"

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = re.findall(rb"content-length: (\d+)", head.lower())
        who = json.loads(await reader.readexactly(int(length)))["user"]
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(event)
                await writer.drain()
        ended[who].set()
        writer.close()

    async def read_slowly(connection: socket.socket) -> None:
        while await asyncio.get_running_loop().sock_recv(connection, 4096):
            await asyncio.sleep(0.05)

    runtime = await asyncio.start_server(talk, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{runtime.sockets[0].getsockname()[1]}"
    async with serving(Stub(address), Terms(client_seconds=SECONDS)) as port:
        chats = {who: request("/v1/chat/completions", {"model": "m", "stream": True, "messages": [], "user": who}) for who in ended}
        silent, slow = [await sent(port, chat, 8192) for chat in chats.values()]
        with silent, slow:
            begun = time.monotonic()
            reading = asyncio.create_task(read_slowly(slow))
            await asyncio.wait_for(ended["silent"].wait(), 60)
            assert time.monotonic() - begun > SECONDS
            # It has been waited for as long by now.
            await asyncio.sleep(3 * SECONDS)
            assert not ended["slow"].is_set()
            assert not reading.done()
            reading.cancel()
    await asyncio.wait_for(ended["slow"].wait(), 60)
    runtime.close()


# Bodies


async def test_all_bodies_together_are_bounded():
    """Until their requests are answered, or their clients are gone."""
    terms = Terms(body_bytes=MEBIBYTE, all_bodies_bytes=MEBIBYTE)
    long = {"model": "m", "messages": [{"role": "user", "content": "x" * 700_000}]}
    async with serving(Stub(), terms) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        for _ in range(3):
            assert (await client.post("/v1/models", json=LAUNCH | {"envs": long})).status_code == 400
        with await sent(port, request("/v1/chat/completions", long)):
            async with asyncio.timeout(60):
                while b"requests_held 1.0" not in (await client.get("/metrics")).content:
                    await asyncio.sleep(0.05)
            refused = await client.post("/v1/chat/completions", json=long)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert "bodies of 1 MiB together (JITNEY_MAX_ALL_BODIES_MEBIBYTES)" in refused.json()["detail"]
            assert (await client.post("/v1/chat/completions", json={"model": "other"})).status_code == 404
        async with asyncio.timeout(60):
            while (await client.post("/v1/chat/completions", json=long | {"model": "other"})).status_code != 404:
                await asyncio.sleep(0.05)


# Launches


async def test_who_leaves_a_launch_is_not_waited_for_and_the_launch_goes_on():
    stub = Stub()
    async with serving(stub) as port:
        with await sent(port, request("/v1/models", LAUNCH)):
            await asyncio.wait_for(stub.waited_for.wait(), 60)
            assert not stub.left.is_set()
        await asyncio.wait_for(stub.left.wait(), 60)
    assert stub.ended == []


async def test_a_launch_that_fails_and_one_that_is_not_understood_are_in_the_log(caplog: pytest.LogCaptureFixture):
    stub = Stub(fails=True)
    with caplog.at_level(logging.INFO, "jitney.audit"):
        async with serving(stub) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert (await client.post("/v1/models", json=LAUNCH)).status_code == 500
            assert (await client.post("/v1/models", json=LAUNCH | {"model_uid": "odd", "replica": 0})).status_code == 400
            assert (await client.post("/v1/models", content=b"{")).status_code == 400
    told = [json.loads(record.getMessage()) for record in caplog.records if record.name == "jitney.audit"]
    assert [(line["event"], line["model"], line["outcome"]) for line in told] == [
        ("launch", "m", "done"),
        ("terminate", "m", "done"),
        ("launch", "odd", "refused"),
        ("launch", "", "refused"),
    ]
    assert (told[1]["why"], stub.ended) == ("launch_failed", ["m"])
    assert "replica: must be a whole number" in told[2]["reason"]
