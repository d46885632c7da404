"""`jitney`: its commands. Reasons go to standard error, and a failure ends with 1."""

from __future__ import annotations

import typer

from jitney_gateway.cli.bench import bench
from jitney_gateway.cli.chat import chat
from jitney_gateway.cli.doctor import doctor
from jitney_gateway.cli.keys import app as keys
from jitney_gateway.cli.launch import Launching, launch
from jitney_gateway.cli.local import local
from jitney_gateway.cli.logs import logs
from jitney_gateway.cli.models import describe, list_models, terminate
from jitney_gateway.cli.registrations import register, registrations, unregister

app = typer.Typer(no_args_is_help=True, add_completion=True, help="Chat models with continuous batching.", pretty_exceptions_enable=False)
app.command()(local)
app.command(cls=Launching, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(launch)
app.command("list")(list_models)
for command in (describe, chat, terminate, registrations, register, unregister, logs, bench, doctor):
    app.command()(command)
app.add_typer(keys, name="keys")
