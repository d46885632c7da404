"""The HTTP server's life: up until a signal, and down when what stands behind it is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Iterator

import uvicorn
from fastapi import FastAPI

from jitney_gateway.server.intake import LONGEST_HEAD
from jitney_gateway.server.patience import patient


async def serve(
    application: FastAPI, host: str, port: int, log_level: str, client_seconds: float, leave: Callable[[], Awaitable[None]]
) -> None:
    """Returns after SIGTERM or SIGINT, once `leave` has ended, or when the server ends by itself, as where the port is taken. A client may
    take `client_seconds` for the head of a request."""
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
    )
    server, stop = uvicorn.Server(config), asyncio.Event()
    # The signals are ours: uvicorn would end before what stands behind it, and by the signal instead of 0.
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    serving, stopping = asyncio.create_task(server.serve()), asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    await leave()
    server.should_exit = True
    stopping.cancel()
    await serving


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    yield
