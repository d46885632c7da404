"""`jitney logs`: what a model's runtime writes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jitney_gateway.cli.client import Failed
from jitney_gateway.cli.endpoint import connect
from jitney_gateway.cli.options import Endpoint, Key, Uid
from jitney_gateway.cli.output import fail


def logs(
    model_uid: Uid,
    endpoint: Endpoint = None,
    replica: Annotated[str | None, typer.Option("--replica", help="Its id, as `jitney describe` shows it; default, the first.")] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=100_000, help="How many of the last ones.")] = 200,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is written from now on, until Ctrl-C.")] = False,
    api_key: Key = None,
) -> None:
    """The log of a model's runtime."""
    try:
        for piece in connect(endpoint, api_key).log(model_uid, replica, lines, follow):
            sys.stdout.write(piece)
            sys.stdout.flush()
    except Failed as error:
        fail(str(error))
    except KeyboardInterrupt:
        return
