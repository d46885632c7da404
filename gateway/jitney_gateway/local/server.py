"""`jitney local`: the front door and its models on this machine, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from jitney_gateway.catalogue import Catalogue
from jitney_gateway.local.backend import LocalBackend
from jitney_gateway.server import app

logger = logging.getLogger(__name__)

OLD_SWITCH = "XINFERENCE_TRANSFORMERS_ENABLE_BATCHING"


def default_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "jitney"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextlib.contextmanager
def _no_signals() -> Iterator[None]:
    yield


async def serve(host: str, port: int, folder: Path, log_level: str) -> None:
    """Returns after SIGTERM or SIGINT, when every model's process is gone. ValueError where the record in `folder` cannot be read."""
    if os.environ.get(OLD_SWITCH) == "0":
        logger.warning("%s=0 has no effect: requests always share one batch; set max_num_seqs to 1 to serve one at a time", OLD_SWITCH)
    catalogue = Catalogue.read()
    backend = LocalBackend(folder, catalogue, log_level)
    config = uvicorn.Config(app.make(backend, catalogue), host=host, port=port, log_level=log_level, access_log=log_level == "debug")
    server = uvicorn.Server(config)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # Ours are the signals: uvicorn would end before the models have.
    server.capture_signals = _no_signals  # type: ignore[method-assign]
    await backend.start()
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    # New chats are refused by the runtimes themselves while answers under way are finished.
    await backend.stop()
    server.should_exit = True
    await serving
    stopping.cancel()
