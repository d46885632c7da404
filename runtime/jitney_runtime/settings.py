"""Flags and JITNEY_* variables -> frozen settings. An unknown flag ends the process with 2; an unknown variable is a warning."""

from __future__ import annotations

import argparse
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain

logger = logging.getLogger(__name__)

# Variables of the same prefix that belong to somebody else on the way: the command line, the test and demo harness, and the key, which
# never is a flag.
_NOT_FLAGS = {"JITNEY_API_KEY", "JITNEY_CACHE", "JITNEY_CLUSTER", "JITNEY_ENDPOINT", "JITNEY_IMAGE_REGISTRY"}
_LONGEST_STOP = 256
_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class RuntimeSettings:
    """What one server serves and how. `kv_cache_memory` is in bytes; None sizes it from the memory that is free after loading.
    `chat_template` is a text, in place of the model's own; `stop` and `stop_token_ids` end every answer, beside what a request gives."""

    model: str
    served_model_name: str
    revision: str | None = None
    max_num_seqs: int = 16
    max_model_len: int | None = None
    quantization: str = "none"
    device: str = "auto"
    dtype: str = "auto"
    host: str = "127.0.0.1"
    port: int = 8000
    drain_seconds: int = 120
    max_waiting: int = 256
    token_budget: int = 512
    block_size: int = 16
    prefix_cache: bool = True
    kv_cache_memory: int | None = None
    memory_share: float | None = None
    kernel: str = "auto"
    trust_remote_code: bool = False
    chat_template: str | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    termination_log: str = "/dev/termination-log"
    log_level: str = "info"
    api_key: str | None = None


def _whole(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text) if re.fullmatch(r"-?\d+", text) else None
        if number is None or not minimum <= number <= maximum:
            raise argparse.ArgumentTypeError(f"must be a whole number from {minimum} to {maximum}, not {text!r}")
        return number

    return parse


def _memory(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]i?)?", text)
    if not match or not int(match[1]):
        raise argparse.ArgumentTypeError(f"must be bytes such as 2Gi or 500M, not {text!r}")
    return int(match[1]) * _UNITS[match[2] or ""]


def _share(text: str) -> float:
    if not re.fullmatch(r"0?\.\d{1,4}|1(\.0+)?", text) or not float(text):
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most 1, not {text!r}")
    return float(text)


def _yes(text: str) -> bool:
    """A flag alone, or what a variable says."""
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}")
    return words[text.lower()]


def _stops(text: str) -> tuple[str, ...]:
    """A text, or several as a JSON list: no sign between them could not itself be one."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    stops = found if isinstance(found, list) else [text]
    if not all(isinstance(stop, str) and 0 < len(stop) <= _LONGEST_STOP for stop in stops):
        raise argparse.ArgumentTypeError(f"must be a text of 1 to {_LONGEST_STOP} characters, or a JSON list of such texts, not {text!r}")
    return tuple(stops)


def _ids(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d{1,8}( *, *\d{1,8})*", text):
        raise argparse.ArgumentTypeError(f"must be token ids such as 0,2, not {text!r}")
    return tuple(map(int, text.split(",")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "jitney-runtime",
        description="Serve a chat model with continuous batching. Every flag is also a variable: --max-num-seqs is JITNEY_MAX_NUM_SEQS.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", required=True, help="a folder, or org/repo on the hub")
    add("--revision", help="branch, tag or commit of the hub's repository")
    add("--served-model-name", help="the name clients send; default: the last part of --model")
    add("--max-num-seqs", type=_whole(1, 1024), default=16, help="requests that share one batch (default %(default)s)")
    add("--max-model-len", type=_whole(2, 10_000_000), help="context window in tokens; default: the model's, lowered to what fits")
    add("--quantization", choices=["none", "int8", "int4"], default="none")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    dtypes = ["auto", "float32", "bfloat16", "float16"]
    add("--dtype", choices=dtypes, default="auto", help="auto: bfloat16; float32 on a CPU without AVX2 or with another kernel than our own")
    add("--host", default="127.0.0.1")
    add("--port", type=_whole(0, 65535), default=8000)
    add("--drain-seconds", type=_whole(0, 86400), default=120, help="how long answers may finish after SIGTERM")
    add("--max-waiting", type=_whole(0, 100_000), default=256, help="requests that may wait for a row; one more is answered 429")
    add("--token-budget", type=_whole(1, 65536), default=512, help="tokens computed in one step, long prompts in chunks")
    add("--block-size", type=_whole(1, 1024), default=16, help="tokens in one block of KV memory")
    add(
        "--prefix-cache",
        type=_yes,
        default=True,
        help="false: prompts that begin alike do not share what is computed of them, so that nobody can tell by a clock what others asked",
    )
    add(
        "--kv-cache-memory", type=_memory, help="bytes for keys and values, such as 2Gi; default: what full use needs, as far as it is free"
    )
    add(
        "--memory-share",
        type=_share,
        help="share of what is free for keys and values, such as 0.5; default: nearly all of a container's or a GPU's, 0.7 of a machine's",
    )
    add(
        "--kernel",
        choices=["auto", "plain", "onednn", "native"],
        default="auto",
        help="products on a CPU; auto times those that serve the dtype here, and leaves native only for one that is much faster",
    )
    add(
        "--trust-remote-code",
        nargs="?",
        const=True,
        default=False,
        type=_yes,
        help="run the code that the model's own repository brings (default: refuse such a model)",
    )
    add(
        "--chat-template",
        action="append",
        help="a file with the chat template, or its text; several are parts of one text; default: the model's own",
    )
    add("--stop", action="append", type=_stops, help="a text that ends every answer, or a JSON list of them; may be repeated")
    add("--stop-token-ids", action="append", type=_ids, help="tokens that end every answer, such as 0,2; may be repeated")
    add("--termination-log", default="/dev/termination-log", help="file that gets one line when the server cannot start")
    add("--log-level", choices=["debug", "info", "warning", "error"], default="info")
    return parser


def parse_settings(arguments: list[str], environment: Mapping[str, str]) -> RuntimeSettings:
    """Read flags over variables over defaults. A bad value ends the process with 2 and a sentence (SystemExit).

    An empty variable counts as absent, and one that a flag replaces is not looked at.
    """
    parser = _parser()
    flags = {
        option: action for action in parser._actions for option in action.option_strings if option.startswith("--") and option != "--help"
    }
    given = {argument.split("=")[0] for argument in arguments}
    from_environment: list[str] = []
    for name, value in environment.items():
        if not name.startswith("JITNEY_") or name in _NOT_FLAGS:
            continue
        flag = "--" + name.removeprefix("JITNEY_").lower().replace("_", "-")
        if flag not in flags:
            logger.warning("the variable %s is unknown and has no effect", name)
        elif value and flag not in given:
            from_environment.append(f"{flag}={value}")
    found = parser.parse_args(from_environment + arguments)
    values = vars(found)
    values["chat_template"] = _chat_template(parser, found.chat_template)
    for name in ("stop", "stop_token_ids"):
        values[name] = tuple(dict.fromkeys(chain.from_iterable(values[name] or ())))
    values["served_model_name"] = found.served_model_name or found.model.rstrip("/").split("/")[-1]
    return RuntimeSettings(**values, api_key=environment.get("JITNEY_API_KEY") or None)


def _chat_template(parser: argparse.ArgumentParser, parts: list[str] | None) -> str | None:
    """Looked at here: a broken one is to be told before hours of downloading."""
    if parts is None:
        return None
    # Half a second of imports that most servers do not need.
    from jitney_runtime.text import template

    try:
        return template.read("".join(parts))
    except ValueError as error:
        parser.error(f"argument --chat-template: {error}")
