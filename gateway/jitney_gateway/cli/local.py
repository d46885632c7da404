"""`jitney local`: the front door and its models on this machine."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer

from jitney_gateway.cli.output import fail

# Variables of the same name set them in a cluster.
SIZE_SETTING, SECONDS_SETTING = "JITNEY_MAX_BODY_MEBIBYTES", "JITNEY_CLIENT_SECONDS"
ALL_SIZES_SETTING = "JITNEY_MAX_ALL_BODIES_MEBIBYTES"
MEMORY_HELP = "Refuse a launch whose weights cannot fit into what is free. What lies on a hub, without a size, is not checked."


def local(
    host: Annotated[str, typer.Option("--host", "-H")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p")] = 9997,
    state_dir: Annotated[Path | None, typer.Option("--state-dir", help="What was launched, and logs.")] = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error")] = "info",
    memory_check: Annotated[bool, typer.Option(help=MEMORY_HELP)] = True,
    keys_file: Annotated[
        Path | None, typer.Option("--keys-file", envvar="JITNEY_KEYS_FILE", help="Who may call; `jitney keys make` prints its entries.")
    ] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines call without keys.")] = False,
    max_body: Annotated[
        int, typer.Option("--max-body-mebibytes", envvar=SIZE_SETTING, min=1, max=1024, help="A longer request is refused.")
    ] = 8,
    max_bodies: Annotated[
        int, typer.Option("--max-all-bodies-mebibytes", envvar=ALL_SIZES_SETTING, min=1, help="Of all under way; others try again.")
    ] = 256,
    client_seconds: Annotated[
        int, typer.Option("--client-seconds", envvar=SECONDS_SETTING, min=1, max=3600, help="To send a request, or to read on.")
    ] = 60,
) -> None:
    """Serve models on this machine until Ctrl-C."""
    # It takes a while to import, and every other command does without it.
    from jitney_gateway.local import server
    from jitney_gateway.server.guard import Terms
    from jitney_gateway.server.intake import MEBIBYTE
    from jitney_gateway.server.keyring import Keyring
    from jitney_gateway.server.keys import KeysError

    here = server.is_loopback(host)
    if not here and not keys_file and not insecure:
        fail(f"--host {host}: without keys only this machine may call; use 127.0.0.1, or give --keys-file, or --insecure to let all in")
    level = log_level.lower()
    if level not in ("debug", "info", "warning", "error"):
        fail(f"--log-level must be debug, info, warning or error, not {log_level}")
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        keyring = Keyring(keys_file) if keys_file else None
    except KeysError as error:
        fail(f"--keys-file: {error}")
    terms = Terms(keyring, max_body * MEBIBYTE, max_bodies * MEBIBYTE, client_seconds, local_names=here and keyring is None)
    try:
        asyncio.run(server.serve(host, port, state_dir or server.default_folder(), level, memory_check, terms))
    except ValueError as error:
        fail(str(error))
