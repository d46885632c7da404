"""How a watch ends, of a server that answers with these lines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio import client

from jitney_operator.cluster import Cluster
from jitney_operator.errors import ClusterError


@contextlib.asynccontextmanager
async def server(answer: Callable[[web.StreamResponse], Awaitable[None]]) -> AsyncIterator[Cluster]:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await answer(response)
        return response

    app = web.Application()
    app.router.add_get("/things", handler)
    async with TestServer(app) as served:
        cluster = Cluster(client.ApiClient(client.Configuration(host=str(served.make_url("")).rstrip("/"))))
        try:
            yield cluster
        finally:
            await cluster.close()


async def seen(cluster: Cluster, seconds: int = 50) -> list[object]:
    async with asyncio.timeout(30), cluster.watch("/things", 1, seconds) as events:
        return [event async for event in events]


async def test_a_watch_that_the_server_ends():
    async def answer(response: web.StreamResponse) -> None:
        for piece in (b'{"a": 1}\n{"a"', b": 2}\n"):
            await response.write(piece)

    async with server(answer) as cluster:
        assert await seen(cluster) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"<html>\n", "something else than the API server answers"), (b'{"a": 1}\n{"a"', "in the middle of a line")],
)
async def test_a_watch_that_tells_nonsense(text: bytes, said: str):
    async with server(lambda response: response.write(text)) as cluster:
        with pytest.raises(ClusterError, match=said):
            await seen(cluster)


async def test_a_watch_that_the_server_does_not_end():
    over = asyncio.Event()

    async def answer(response: web.StreamResponse) -> None:
        while not over.is_set():
            await response.write(b'{"a": 1}\n')
            await asyncio.sleep(0.1)

    async with server(answer) as cluster:
        with pytest.raises(ClusterError, match="the API server does not answer"):
            # A second after it should have ended.
            await seen(cluster, -9)
        over.set()
