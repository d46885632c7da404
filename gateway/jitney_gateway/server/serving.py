"""The HTTP server's life: up until a signal, and down when what stands behind it is."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator

import uvicorn
from fastapi import FastAPI

from jitney_gateway.server.intake import LONGEST_HEAD
from jitney_gateway.server.patience import patient

logger = logging.getLogger(__name__)

Step = Callable[[], Awaitable[None]]


class Server(uvicorn.Server):
    """`begin` comes once the port is ours. So do the signals: uvicorn would end before what stands behind it, and by the signal instead
    of 0."""

    def __init__(self, config: uvicorn.Config, begin: Step | None) -> None:
        super().__init__(config)
        self._begin = begin

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:
            # It has logged why. Ended here, the process would not put in order what stands behind it.
            self.should_exit = True
        if self._begin and self.started:
            await self._begin()

    def let_go(self) -> None:
        """Of all connections, of busy ones once they are not: their clients' next ones lead elsewhere. New ones are taken."""
        for connection in tuple(self.server_state.connections):
            connection.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    application: FastAPI,
    host: str,
    port: int,
    log_level: str,
    client_seconds: float,
    leave: Step,
    begin: Step | None = None,
    longest_end: int | None = None,
    finish: Step | None = None,
) -> None:
    """Returns after SIGTERM or SIGINT, once `leave` and then `finish` have ended, or when the server ends by itself, as where the port is
    taken. Connections are let go before `finish`, and new ones taken until it has ended. A client may take `client_seconds` for the head of
    a request, and answers still under way `longest_end` seconds after that, without an end where it is None. A second signal waits for
    nothing: `leave` and `finish` are cancelled. SystemExit (1) where it never began to serve."""
    config = uvicorn.Config(
        application,
        host=host,
        port=port,
        log_level=log_level,
        access_log=log_level == "debug",
        http=patient(client_seconds),
        h11_max_incomplete_event_size=LONGEST_HEAD,
        # The address in the log is the one that called, unless the administrator trusts what stands before us.
        forwarded_allow_ips=os.environ.get("FORWARDED_ALLOW_IPS", ""),
        timeout_graceful_shutdown=longest_end,
    )
    server, stop, hurry = Server(config, begin), asyncio.Event(), asyncio.Event()

    def told() -> None:
        if stop.is_set():
            logger.warning("asked twice to stop: ending now")
            server.force_exit = True
            hurry.set()
        stop.set()

    async def down() -> None:
        await leave()
        if finish:
            server.let_go()
            await finish()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told)
    serving, stopping = asyncio.create_task(server.serve()), asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    leaving, hurried = asyncio.create_task(down()), asyncio.create_task(hurry.wait())
    await asyncio.wait({leaving, hurried}, return_when=asyncio.FIRST_COMPLETED)
    if not leaving.done():
        leaving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await leaving
    server.should_exit = True
    stopping.cancel()
    hurried.cancel()
    await serving
    if not server.started:
        raise SystemExit(1)
