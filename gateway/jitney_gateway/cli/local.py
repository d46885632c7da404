"""`jitney local`: the front door and its models on this machine."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer

from jitney_gateway.cli.output import fail


def local(
    host: Annotated[str, typer.Option("--host", "-H")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p")] = 9997,
    state_dir: Annotated[Path | None, typer.Option("--state-dir", help="What was launched, and logs.")] = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error")] = "info",
    memory_check: Annotated[bool, typer.Option(help="Refuse a launch whose weights cannot fit into what is free.")] = True,
) -> None:
    """Serve models on this machine until Ctrl-C."""
    # It takes a while to import, and every other command does without it.
    from jitney_gateway.local import server

    if not server.is_loopback(host):
        fail(f"--host {host}: without keys only this machine may call; use 127.0.0.1")
    level = log_level.lower()
    if level not in ("debug", "info", "warning", "error"):
        fail(f"--log-level must be debug, info, warning or error, not {log_level}")
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(server.serve(host, port, state_dir or server.default_folder(), level, memory_check))
    except ValueError as error:
        fail(str(error))
