"""`jitney registrations`, `register` and `unregister`: the models that can be launched by a name. The flags are Xinference's."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from jitney_gateway.cli.client import Client, Failed
from jitney_gateway.cli.endpoint import HERE, connect
from jitney_gateway.cli.options import Endpoint, Key, Output
from jitney_gateway.cli.output import Form, fail, out, say, show, table

TOLD = {
    "Name": "model_name",
    "Built in": "is_builtin",
    "Description": "model_description",
    "Language": "model_lang",
    "Ability": "model_ability",
    "Family": "model_family",
    "Context length": "context_length",
}
# Of its specs: each is one size.
SPEC = {
    "Format": "model_format",
    "Size (in billions)": "model_size_in_billions",
    "Quantization": "quantization",
    "Revision": "model_revision",
}

Kind = Annotated[str, typer.Option("--model-type", "-t", help="LLM is the only one that is served.")]


def _names(context: typer.Context, incomplete: str) -> list[str]:
    """For the shell: never slow, never an error."""
    try:
        client = Client(context.params.get("endpoint") or HERE, context.params.get("api_key"), seconds=1)
        return [found["model_name"] for found in client.registrations("LLM") if found["model_name"].startswith(incomplete)]
    except (Failed, KeyError, TypeError, ValueError):
        return []


def registrations(
    model_name: Annotated[
        str | None, typer.Option("--model-name", "-n", help="Only this one, and all about it.", autocompletion=_names)
    ] = None,
    model_type: Kind = "LLM",
    endpoint: Endpoint = None,
    output: Output = Form.TABLE,
    api_key: Key = None,
) -> None:
    """The models that can be launched by a name: those that are built in, and those that were registered."""
    try:
        client = connect(endpoint, api_key)
        found: Any = client.registrations(model_type) if model_name is None else client.registration(model_type, model_name)
    except Failed as error:
        fail(str(error))
    if model_name is None:
        # Xinference's columns.
        rows = [
            [model_type, *(_words(family[key]) for key in ("model_name", "model_lang", "model_ability", "is_builtin"))] for family in found
        ]
        show(found, output, table("Type", "Name", "Language", "Ability", "Is-built-in", rows=rows))
        return
    show(found, output, table("", "", rows=[(title, words) for title, key in TOLD.items() if (words := _words(found.get(key)))]))
    if output is Form.TABLE:
        specs = [
            [*(spec.get(key) for key in SPEC.values()), spec.get("model_uri") or spec.get("model_id")] for spec in found["model_specs"]
        ]
        out.print(table(*SPEC, "Weights", rows=specs))


def register(
    file: Annotated[Path, typer.Option("--file", "-f", help="The family as JSON, with model_id or model_uri; - is standard input.")],
    model_type: Kind = "LLM",
    persist: Annotated[
        bool, typer.Option("--persist", "-p", help="Keep it over a restart of `jitney local`; a cluster always does.")
    ] = False,
    worker_ip: Annotated[str | None, typer.Option("--worker-ip", "-w", hidden=True)] = None,
    endpoint: Endpoint = None,
    api_key: Key = None,
) -> None:
    """Register a model of your own, which is launched by its name then."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        fail(f"--file cannot be read: {error}")
    try:
        connect(endpoint, api_key).register(model_type, text, persist, worker_ip)
    except Failed as error:
        fail(str(error))
    name = json.loads(text)["model_name"]
    say(f"Registered {name}: `jitney launch -n {name}` launches it.")


def unregister(
    model_name: Annotated[str, typer.Option("--model-name", "-n", help="What was registered.", autocompletion=_names)],
    model_type: Kind = "LLM",
    endpoint: Endpoint = None,
    api_key: Key = None,
) -> None:
    """Forget a model of your own. What was launched of it stays."""
    try:
        connect(endpoint, api_key).unregister(model_type, model_name)
    except Failed as error:
        fail(str(error))


def _words(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return "" if value is None else str(value)
