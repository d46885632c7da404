"""An ASGI application on a real port of this machine, on the caller's event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from support.rig import until


@contextlib.asynccontextmanager
async def served(app: FastAPI, host: str = "127.0.0.1", port: int = 0, **more: Any) -> AsyncIterator[str]:
    """Its address. `more` is of the server's own configuration."""
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2, **more))
    # Signals are the test runner's.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield f"http://{host}:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving
