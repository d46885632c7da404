"""Flags that several commands share, in Xinference's spellings too."""

from __future__ import annotations

from typing import Annotated

import typer

from jitney_gateway.cli import endpoint
from jitney_gateway.cli.client import Client, Failed
from jitney_gateway.cli.output import Form

Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        "-e",
        envvar=["JITNEY_ENDPOINT", "XINFERENCE_ENDPOINT"],
        help=f"The front door's address. Default, {endpoint.HERE} where that answers, else your cluster's (`{endpoint.KUBECONFIG}`).",
        show_default=False,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        "--api-key", "-ak", envvar=["JITNEY_API_KEY", "XINFERENCE_API_KEY"], help="Where the front door wants one.", show_default=False
    ),
]
Output = Annotated[Form, typer.Option("--output", "-o", help="How it is printed.")]


def _uids(context: typer.Context, incomplete: str) -> list[str]:
    """For the shell: never slow, never an error."""
    try:
        address = context.params.get("endpoint") or endpoint.HERE
        client = Client(address, context.params.get("api_key"), seconds=1)
        return [model["id"] for model in client.models() if model["id"].startswith(incomplete)]
    except (Failed, KeyError, TypeError, ValueError):
        return []


Uid = Annotated[str, typer.Option("--model-uid", "-u", help="The launched model.", autocompletion=_uids)]
