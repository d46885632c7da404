"""`jitney launch`: begins a model and waits until it answers. The flags are those of `xinference launch`."""

from __future__ import annotations

import contextlib
import json
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from jitney_gateway.cli import waiting
from jitney_gateway.cli.client import Client, Failed
from jitney_gateway.cli.endpoint import connect
from jitney_gateway.cli.options import Endpoint, Key
from jitney_gateway.cli.output import fail, say

# Flags with two words each, `-ev NAME VALUE`.
PAIRS = {
    "--lora-modules": "-lm",
    "--image-lora-load-kwargs": "-ld",
    "--image-lora-fuse-kwargs": "-fd",
    "--quantization-config": "-qc",
    "--env": "-ev",
}


class Launching(TyperCommand):
    """Takes the two words of a pair as one, NAME=VALUE, which typer can read any number of times."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, joined(args))


def joined(words: list[str]) -> list[str]:
    """`-ev A 1` as `-ev A=1`; what has its = already stays."""
    left, made = list(words), []
    while left:
        made.append(left.pop(0))
        if made[-1] in {*PAIRS, *PAIRS.values()} and len(left) > 1 and "=" not in left[0]:
            made.append(f"{left.pop(0)}={left.pop(0)}")
    return made


def _pair(name: str, text: str = "") -> Any:
    return typer.Option(name, PAIRS[name], metavar="NAME VALUE", help=text, hidden=not text)


def launch(
    # What is hidden has no meaning here; the front door refuses it by its name.
    context: typer.Context,
    model_name: Annotated[str, typer.Option("--model-name", "-n", help="A catalogue name, or org/repo on the hub.")],
    endpoint: Endpoint = None,
    model_engine: Annotated[str, typer.Option("--model-engine", "-en")] = "transformers",
    model_type: Annotated[str, typer.Option("--model-type", "-t")] = "LLM",
    model_uid: Annotated[str | None, typer.Option("--model-uid", "-u", help="Default, the name.")] = None,
    size: Annotated[str | None, typer.Option("--size-in-billions", "-s", help="Such as 4, 0.5 or 1_8.")] = None,
    model_format: Annotated[str, typer.Option("--model-format", "-f")] = "pytorch",
    quantization: Annotated[str, typer.Option("--quantization", "-q")] = "none",
    replica: Annotated[int, typer.Option("--replica", "-r")] = 1,
    n_worker: Annotated[int, typer.Option("--n-worker", help="1: a model is on one machine.")] = 1,
    n_gpu: Annotated[str, typer.Option("--n-gpu", help="auto, none or 1")] = "auto",
    gpu_idx: Annotated[str | None, typer.Option("--gpu-idx", hidden=True)] = None,
    worker_ip: Annotated[str | None, typer.Option("--worker-ip", hidden=True)] = None,
    model_path: Annotated[str | None, typer.Option("--model-path", "-mp", help="A folder with the checkpoint.")] = None,
    trust_remote_code: Annotated[str | None, typer.Option("--trust-remote-code", metavar="true|false")] = None,
    env: Annotated[list[str] | None, _pair("--env", "A variable of the model's process; may be repeated.")] = None,
    quantization_config: Annotated[list[str] | None, _pair("--quantization-config")] = None,
    lora: Annotated[list[str] | None, _pair("--lora-modules")] = None,
    lora_load: Annotated[list[str] | None, _pair("--image-lora-load-kwargs")] = None,
    lora_fuse: Annotated[list[str] | None, _pair("--image-lora-fuse-kwargs")] = None,
    enable_thinking: Annotated[bool, typer.Option("--enable-thinking", hidden=True)] = False,
    virtual_env: Annotated[bool | None, typer.Option("--enable-virtual-env/--disable-virtual-env", hidden=True)] = None,
    virtual_env_package: Annotated[list[str] | None, typer.Option("--virtual-env-package", "-vp", hidden=True)] = None,
    virtual_env_find_link: Annotated[list[str] | None, typer.Option("--virtual-env-find-link", hidden=True)] = None,
    api_key: Key = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", min=1, help="Seconds to wait; the model goes on starting after them.")
    ] = None,
) -> None:
    """Launch a model and wait until it is ready; Ctrl-C cancels. Other parameters as --name value, such as --max_num_seqs 32."""
    body: dict[str, Any] = {"model_name": model_name, "model_engine": model_engine, "model_type": model_type, "model_uid": model_uid}
    body |= {"model_size_in_billions": size, "model_format": model_format, "quantization": quantization, "replica": replica}
    body |= {"n_worker": n_worker, "n_gpu": {"auto": "auto", "none": 0}.get(n_gpu.lower(), value(n_gpu)), "gpu_idx": _indices(gpu_idx)}
    body |= {"worker_ip": worker_ip, "model_path": model_path, "trust_remote_code": value(trust_remote_code or "none"), "envs": _pairs(env)}
    body |= {"quantization_config": _pairs(quantization_config), "enable_thinking": enable_thinking or None}
    body |= {
        "enable_virtual_env": virtual_env,
        "virtual_env_packages": virtual_env_package,
        "virtual_env_find_links": virtual_env_find_link,
    }
    adapters = {"lora_list": lora, "image_lora_load_kwargs": lora_load, "image_lora_fuse_kwargs": lora_fuse}
    body |= {"peft_model_config": {name: given for name, given in adapters.items() if given} or None, **_extra(context.args)}
    try:
        client = connect(endpoint, api_key)
        uid = client.launch({name: given for name, given in body.items() if given is not None})
        _follow(client, uid, timeout)
    except Failed as error:
        fail(str(error))
    say(f"Model uid: {uid}")


def _follow(client: Client, uid: str, timeout: float | None) -> None:
    """Failed with the reason where it cannot be served; such a model is not left in the list."""
    try:
        waiting.wait(client, uid, timeout)
    except waiting.Unservable:
        with contextlib.suppress(Failed):
            client.terminate(uid)
        raise
    except KeyboardInterrupt:
        client.terminate(uid)
        fail(f"the launch of {uid} was cancelled", 130)


def _extra(words: list[str]) -> dict[str, Any]:
    """`--max_num_seqs 32` or `--max_num_seqs=32`, with the value as JSON where it is some."""
    found: dict[str, Any] = {}
    left = list(words)
    while left:
        name, sign, given = left.pop(0).partition("=")
        if not name.startswith("--"):
            fail(f"{name} is no parameter: write --name value")
        if not sign and not left:
            fail(f"{name} has no value")
        found[name.removeprefix("--").replace("-", "_")] = value(given if sign else left.pop(0))
    return found


def value(text: str) -> Any:
    """As Xinference's command line reads one."""
    known = {"none": None, "true": True, "false": False}
    if text.lower() in known:
        return known[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _indices(text: str | None) -> Any:
    return None if text is None else [value(word) for word in text.split(",")]


def _pairs(words: list[str] | None) -> dict[str, str] | None:
    if not words:
        return None
    found = {}
    for word in words:
        name, sign, given = word.partition("=")
        if not sign:
            fail(f"{word} has no value: write NAME VALUE")
        found[name] = given
    return found
