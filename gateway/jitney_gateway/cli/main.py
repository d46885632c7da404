"""`jitney`: its commands and flags, in Xinference's spellings too. Reasons go to standard error, and a failure ends with 1."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from jitney_gateway.cli.client import Client, Failed
from jitney_gateway.local import server

app = typer.Typer(no_args_is_help=True, add_completion=True, help="Chat models with continuous batching.", pretty_exceptions_enable=False)
out, err = Console(), Console(stderr=True)

Endpoint = Annotated[
    str, typer.Option("--endpoint", "-e", envvar=["JITNEY_ENDPOINT", "XINFERENCE_ENDPOINT"], help="The front door's address.")
]
Uid = Annotated[str, typer.Option("--model-uid", "-u", help="The launched model.")]
Key = Annotated[str | None, typer.Option("--api-key", "-ak", envvar="JITNEY_API_KEY", help="Where keys are asked for.")]
HERE = "http://127.0.0.1:9997"


@app.command()
def local(
    host: Annotated[str, typer.Option("--host", "-H")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p")] = 9997,
    state_dir: Annotated[Path | None, typer.Option("--state-dir", help="What was launched, and logs.")] = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error")] = "info",
    memory_check: Annotated[bool, typer.Option(help="Refuse a launch whose weights cannot fit into what is free.")] = True,
) -> None:
    """Serve models on this machine until Ctrl-C."""
    if not server.is_loopback(host):
        _fail(f"--host {host}: without keys only this machine may call; use 127.0.0.1")
    level = log_level.lower()
    if level not in ("debug", "info", "warning", "error"):
        _fail(f"--log-level must be debug, info, warning or error, not {log_level}")
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(server.serve(host, port, state_dir or server.default_folder(), level, memory_check))
    except ValueError as error:
        _fail(str(error))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def launch(
    context: typer.Context,
    model_name: Annotated[str, typer.Option("--model-name", "-n", help="A catalogue name, or org/repo on the hub.")],
    endpoint: Endpoint = HERE,
    model_engine: Annotated[str, typer.Option("--model-engine", "-en")] = "transformers",
    model_uid: Annotated[str | None, typer.Option("--model-uid", "-u", help="Default, the name.")] = None,
    size: Annotated[str | None, typer.Option("--size-in-billions", "-s", help="Such as 4, 0.5 or 1_8.")] = None,
    model_format: Annotated[str, typer.Option("--model-format", "-f")] = "pytorch",
    quantization: Annotated[str, typer.Option("--quantization", "-q")] = "none",
    replica: Annotated[int, typer.Option("--replica", "-r")] = 1,
    n_gpu: Annotated[str, typer.Option("--n-gpu", help="auto, none or 1")] = "auto",
    model_path: Annotated[str | None, typer.Option("--model-path", "-mp", help="A folder with the checkpoint.")] = None,
    api_key: Key = None,
) -> None:
    """Launch a model and wait until it is ready. Other parameters as --name value, such as --max_num_seqs 32."""
    body: dict[str, Any] = {"model_name": model_name, "model_engine": model_engine, "model_uid": model_uid, "model_format": model_format}
    body |= {"model_size_in_billions": size, "quantization": quantization, "replica": replica, "model_path": model_path}
    body |= {"n_gpu": {"auto": "auto", "none": 0}.get(n_gpu.lower(), _value(n_gpu)), **_extra(context.args)}
    client = Client(endpoint, api_key)
    try:
        uid = client.launch(body)
        _wait(client, uid)
    except Failed as error:
        _fail(str(error))
    err.print(f"Model uid: {uid}")


def _wait(client: Client, uid: str) -> None:
    """Until it is ready; Failed with the reason where it cannot be."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("launching", total=1.0)
        while True:
            status = client.describe(uid)
            if status["status"] == "READY":
                return
            if status["status"] == "ERROR":
                client.terminate(uid)
                raise Failed(status["message"])
            found = client.progress(uid)
            bar.update(task, completed=found["progress"], description=found.get("message") or found["stage"])
            time.sleep(0.25)


@app.command("list")
def list_models(
    endpoint: Endpoint = HERE, output: Annotated[str, typer.Option("--output", "-o", help="table or json")] = "table", api_key: Key = None
) -> None:
    """The launched models."""
    try:
        models = Client(endpoint, api_key).models()
    except Failed as error:
        _fail(str(error))
    if output == "json":
        print(json.dumps(models, indent=2))
        return
    table = Table("UID", "Type", "Name", "Format", "Size (in billions)", "Quantization", "Status")
    for model in models:
        names = ("id", "model_type", "model_name", "model_format", "model_size_in_billions", "quantization", "status")
        table.add_row(*(str(model[name] if model[name] is not None else "") for name in names))
    out.print(table)


@app.command()
def terminate(model_uid: Uid, endpoint: Endpoint = HERE, api_key: Key = None) -> None:
    """Stop a model; answers under way are finished."""
    try:
        Client(endpoint, api_key).terminate(model_uid)
    except Failed as error:
        _fail(str(error))


@app.command()
def chat(
    model_uid: Uid,
    endpoint: Endpoint = HERE,
    max_tokens: Annotated[int | None, typer.Option("--max_tokens", "--max-tokens", help="Default, as many as its window holds.")] = None,
    api_key: Key = None,
) -> None:
    """Talk to a model; /quit or Ctrl-D ends."""
    client, messages = Client(endpoint, api_key), []
    options = {} if max_tokens is None else {"max_tokens": max_tokens}
    while True:
        try:
            words = input("User: ")
        except EOFError:
            return
        if words.strip() in ("/quit", "/exit"):
            return
        messages.append({"role": "user", "content": words})
        pieces = []
        print("Assistant: ", end="", flush=True)
        try:
            for piece in client.chat(model_uid, messages, **options):
                pieces.append(piece)
                print(piece, end="", flush=True)
        except Failed as error:
            _fail(str(error))
        print()
        messages.append({"role": "assistant", "content": "".join(pieces)})


def _extra(words: list[str]) -> dict[str, Any]:
    """`--max_num_seqs 32` and the like, with the value as JSON where it is some."""
    found: dict[str, Any] = {}
    for name, value in zip(words[::2], words[1::2], strict=False):
        if not name.startswith("--"):
            _fail(f"{name} is no parameter: write --name value")
        found[name.removeprefix("--").replace("-", "_")] = _value(value)
    if len(words) % 2:
        _fail(f"{words[-1]} has no value")
    return found


def _value(text: str) -> Any:
    try:
        return {"none": None, "true": True, "false": False}.get(text.lower(), json.loads(text))
    except ValueError:
        return {"none": None, "true": True, "false": False}.get(text.lower(), text)


def _fail(sentence: str) -> Any:
    err.print(f"error: {sentence}", style="red", highlight=False)
    sys.exit(1)
