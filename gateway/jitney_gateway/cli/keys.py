"""`jitney keys`: makes keys for a front door. They are kept nowhere but where you put them."""

from __future__ import annotations

from typing import Annotated

import typer

from jitney_gateway.cli.output import Form, fail, say, show, table
from jitney_gateway.server.keys import MOST_PER_MINUTE, KeysError
from jitney_gateway.server.keys import make as make_key

app = typer.Typer(no_args_is_help=True, help="Keys for a front door.")


@app.callback()
def keys() -> None:
    """Without it the only command would be the whole of this one."""


@app.command()
def make(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="What it is called in logs and metrics.", show_default=False)],
    model: Annotated[
        list[str] | None, typer.Option("--model", help="A name or pattern that it is for; may be repeated. Default, all.")
    ] = None,
    requests: Annotated[
        int | None,
        typer.Option("--requests-per-minute", min=1, max=MOST_PER_MINUTE, help="Chats and completions, of all front doors together."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option("--tokens-per-minute", min=1, max=MOST_PER_MINUTE, help="Of prompts and answers, of all front doors together."),
    ] = None,
    full_launch: Annotated[
        bool, typer.Option("--full-launch", help="Beside --model: its launches may run code of its own (envs, trust_remote_code, folders).")
    ] = False,
    output: Annotated[Form, typer.Option("--output", "-o", help="How it is printed.")] = Form.TABLE,
) -> None:
    """Make a key: its entry for the keys' file on standard output, the key itself, this once, on standard error."""
    try:
        secret, key = make_key(key_id, tuple(model) if model else None, requests, tokens, full_launch)
    except KeysError as error:
        fail(str(error))
    if output is Form.TABLE:
        say("The key, which is shown this once and kept nowhere:")
        say(f"    {secret}")
        say("Its entry, below `keys:` in the file:")
        show([key.written()], Form.YAML, table())
    else:
        show({"key": secret, "entry": key.written()}, output, table())
