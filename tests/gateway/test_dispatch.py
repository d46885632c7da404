"""A question until its answer's first byte, against sockets that behave as runtimes and nodes do when they go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import pytest

from jitney_gateway.backend import Backend
from jitney_gateway.bell import Bell
from jitney_gateway.catalogue import Catalogue
from jitney_gateway.destination import Destination, Prospect
from jitney_gateway.errors import GatewayError
from jitney_gateway.routing.bounds import Bounds
from jitney_gateway.server import app, wire
from jitney_gateway.server.dispatch import Dispatch
from jitney_gateway.server.overview import figures, load_of
from jitney_gateway.server.question import Ended, Question

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
EVENT = b'data: {"choices": []}\n\n'
HEAD = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"


class Stub(Backend):
    """One model, whose destination a test sets."""

    def __init__(self, *addresses: str, prospect: Prospect = Prospect.COMING) -> None:
        self.found = Destination("m", "plain", addresses, prospect, "words")
        self.bell, self.woken = Bell(), 0

    def come(self, *addresses: str) -> None:
        self.found = Destination("m", "plain", addresses, Prospect.COMING)
        self.bell.ring()

    def destination(self, uid: str) -> Destination | None:
        return self.found if uid == "m" else None

    def uids(self) -> list[str]:
        return ["m"]

    async def wake(self, uid: str) -> None:
        self.woken += 1

    async def moved(self) -> None:
        await self.bell.wait()


@asynccontextmanager
async def listening(handle: Handler) -> AsyncIterator[str]:
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def answering(status: str, bodies: list[bytes]) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        bodies.append(await reader.readexactly(length))
        writer.write(HEAD % status.encode() + b"{}")
        writer.close()

    return handle


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As a process that is killed after it took a request."""
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def rubbish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"no http at all\r\n\r\n")
    writer.close()


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with wire.session() as client:
        yield client


async def ask(dispatch: Dispatch, client: aiohttp.ClientSession) -> int:
    answer, turn = await dispatch.ask(client, "m", "/v1/chat/completions", {"model": "m", "messages": []}, {})
    answer.close()
    turn.release()
    return answer.status


@pytest.mark.parametrize("fails", [closing, rubbish, answering("503 Service Unavailable", [])], ids=["closes", "rubbish", "503"])
async def test_a_replica_that_fails_before_its_first_byte_is_not_noticed(client: aiohttp.ClientSession, fails: Handler):
    bodies: list[bytes] = []
    async with listening(fails) as bad, listening(answering("200 OK", bodies)) as good:
        dispatch = Dispatch(Stub(bad, good), Bounds())
        assert [await ask(dispatch, client) for _ in range(6)] == [200] * 6
    assert bodies[0] == b'{"model": "plain", "messages": []}'


def breaking(bodies: list[bytes]) -> Handler:
    """As a process that is killed while it answers."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        bodies.append(b"")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
        await writer.drain()
        writer.close()

    return handle


async def test_a_replica_that_breaks_off_after_its_first_byte_is_the_last_one_asked():
    bodies: list[bytes] = []
    async with listening(breaking(bodies)) as one, listening(breaking(bodies)) as two:
        door = app.make(Stub(one, two), Catalogue.read())
        # The server ends the connection of an answer whose end does not come.
        transport = httpx.ASGITransport(door, raise_app_exceptions=False)
        async with door.router.lifespan_context(door), httpx.AsyncClient(transport=transport, base_url="http://door") as asker:
            answer = await asker.post("/v1/chat/completions", json={"model": "m", "messages": [], "stream": True})
            metrics = (await asker.get("/metrics")).text
    assert (answer.status_code, answer.content, len(bodies)) == (200, EVENT, 1)
    assert "jitney_gateway_requests_in_flight 0.0" in metrics


async def test_three_replicas_are_tried_and_no_more(client: aiohttp.ClientSession):
    bodies: list[bytes] = []
    async with listening(answering("503 Service Unavailable", bodies)) as address:
        with pytest.raises(GatewayError, match="each of 1 replicas") as once:
            await ask(Dispatch(Stub(address), Bounds()), client)
    names = tuple(f"http://127.0.0.1:{port}" for port in _closed_ports(4))
    with pytest.raises(GatewayError, match="m: each of 3 replicas asked went away") as thrice:
        await ask(Dispatch(Stub(*names), Bounds()), client)
    assert len(bodies) == 1
    assert {once.value.status, thrice.value.status} == {503}
    assert once.value.retry_after
    assert thrice.value.retry_after


def _closed_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in held]
    for server in held:
        server.close()
    return ports


@pytest.mark.parametrize("status", ["400 Bad Request", "429 Too Many Requests", "500 Internal Server Error"])
async def test_what_a_runtime_says_otherwise_is_its_answer(client: aiohttp.ClientSession, status: str):
    bodies: list[bytes] = []
    async with listening(answering(status, bodies)) as one, listening(answering(status, bodies)) as two:
        assert await ask(Dispatch(Stub(one, two), Bounds()), client) == int(status.split()[0])
    assert len(bodies) == 1


async def test_a_question_that_is_held_goes_on_when_its_model_comes(client: aiohttp.ClientSession):
    async with listening(answering("200 OK", [])) as address:
        stub = Stub(prospect=Prospect.ASLEEP)
        asked = asyncio.create_task(ask(Dispatch(stub, Bounds()), client))
        await asyncio.sleep(0.05)
        assert (stub.woken, asked.done()) == (1, False)
        stub.come()
        await asyncio.sleep(0.05)
        assert not asked.done()
        stub.come(address)
        assert await asyncio.wait_for(asked, 5) == 200


async def test_a_model_that_fails_while_it_is_waited_for_is_told_at_once(client: aiohttp.ClientSession):
    stub = Stub()
    asked = asyncio.create_task(ask(Dispatch(stub, Bounds()), client))
    await asyncio.sleep(0.05)
    stub.found = Destination("m", "plain", (), Prospect.FAILED, "ModelNotFound: no such model")
    stub.bell.ring()
    with pytest.raises(GatewayError, match="cannot be served: ModelNotFound"):
        await asyncio.wait_for(asked, 5)


@pytest.mark.parametrize(
    ("prospect", "words", "retry"),
    [(Prospect.SUSPENDED, "suspended", False), (Prospect.FAILED, "cannot be served", False), (Prospect.STARTING, "is starting", True)],
)
async def test_where_waiting_is_of_no_use_nobody_waits(client: aiohttp.ClientSession, prospect: Prospect, words: str, retry: bool):
    with pytest.raises(GatewayError, match=f"{words}: words") as error:
        await ask(Dispatch(Stub(prospect=prospect), Bounds()), client)
    assert (error.value.status, bool(error.value.retry_after)) == (503, retry)


async def test_nothing_is_counted_when_all_is_over(client: aiohttp.ClientSession):
    """Also not what was cancelled, while it was held or asked."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with listening(silent) as address:
        stub = Stub()
        dispatch = Dispatch(stub, Bounds(in_all=1))
        for addresses in ((), (address,)):
            stub.come(*addresses)
            asked = asyncio.create_task(ask(dispatch, client))
            await asyncio.sleep(0.1)
            with pytest.raises(GatewayError, match="1 requests under way"):
                await ask(dispatch, client)
            asked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asked
            assert dispatch._router.in_all == 0


async def test_the_kernel_asks_whether_a_runtime_is_there(client: aiohttp.ClientSession):
    async def begun(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD % b"200 OK")
        await reader.read()
        writer.close()

    async with listening(begun) as address:
        answer = await client.post(address, data=b"{}")
        assert answer.connection
        assert answer.connection.transport
        made = answer.connection.transport.get_extra_info("socket")
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == wire.PROBE_AFTER
        answer.close()


async def test_an_answer_leaves_no_cookie_for_the_next_question(client: aiohttp.ClientSession):
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(HEAD.replace(b"Content-Type", b"Set-Cookie: who=me\r\nContent-Type") % b"200 OK" + b"{}")
        writer.close()

    async with listening(handle) as address:
        dispatch = Dispatch(Stub(address.replace("127.0.0.1", "localhost")), Bounds())
        assert [await ask(dispatch, client) for _ in range(2)] == [200, 200]
    assert not [head for head in heads if b"cookie" in head.lower()]


@pytest.mark.parametrize("text", ['TYPE {,\t=# }"', "no metrics", "\xff"], ids=["its parser stumbles", "rubbish", "no text"])
async def test_a_runtime_with_odd_metrics_has_no_load(client: aiohttp.ClientSession, text: str):
    """And takes nothing from what the others tell."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n" + text.encode("latin-1"))
        writer.close()

    async with listening(handle) as address:
        assert await load_of(client, address) is None
    assert figures("jitney_requests_running NaN\njitney_kv_cache_usage_ratio 0.5\n") == {"kv_cache": 0.5}, "JSON has no NaN"


# A question is ended from outside


async def test_work_that_is_done_first_is_not_ended():
    question = Question()
    assert await question.wait(asyncio.sleep(0, "done")) == "done"
    question.end()
    question.end()
    with pytest.raises(Ended):
        await question.wait(asyncio.sleep(0, "too late"))


async def test_an_end_stops_the_work_and_nothing_else():
    """Whoever waited goes on as after any other exception."""
    question, stopped = Question(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def wait() -> str:
        with pytest.raises(Ended):
            await question.wait(work())
        await asyncio.sleep(0)
        return "went on"

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    question.end()
    question.end()
    assert await waiting == "went on"
    assert stopped.is_set()
    assert waiting.cancelling() == 0


async def test_who_cancels_the_task_at_the_moment_of_an_end_has_cancelled_it():
    question = Question()
    waiting = asyncio.create_task(question.wait(asyncio.Event().wait()))
    await asyncio.sleep(0)
    question.end()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_time_limit_around_a_question_is_one():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await Question().wait(asyncio.Event().wait())


async def test_an_end_that_the_work_keeps_to_itself_leaves_no_trace():
    question = Question()

    async def deaf() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "heard nothing"
        raise AssertionError

    async def wait() -> str:
        said = await question.wait(deaf())
        await asyncio.sleep(0)
        return said

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    question.end()
    assert await waiting == "heard nothing"
