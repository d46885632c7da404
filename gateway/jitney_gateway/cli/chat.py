"""`jitney chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from jitney_gateway.cli.client import Client, Failed
from jitney_gateway.cli.endpoint import connect
from jitney_gateway.cli.options import Endpoint, Key, Uid
from jitney_gateway.cli.output import fail, say

BLOCK = '"""'
MOST_REMEMBERED = 1000
HELP = f"""\
/quit          ends, as Ctrl-D does
/clear         forgets the conversation; the system prompt stays
/system TEXT   another system prompt, and a new conversation
\\ at the end of a line goes on in the next one; {BLOCK} begins and ends a text of several lines
Ctrl-C stops an answer"""


class Conversation:
    """What was said so far; the whole of it goes with each question."""

    def __init__(self, client: Client, uid: str, system: str | None, stream: bool, options: dict[str, Any]) -> None:
        self._client, self._uid, self._stream, self._options = client, uid, stream, options
        self.system = system
        self.said: list[dict[str, str]] = []

    def answer(self, words: str) -> Generator[str]:
        """Piece by piece. An answer that is left early is remembered as far as it came; a question that failed is forgotten."""
        question = {"role": "user", "content": words}
        system = [{"role": "system", "content": self.system}] if self.system else []
        pieces: list[str] = []
        try:
            for piece in self._pieces([*system, *self.said, question]):
                pieces.append(piece)
                yield piece
        finally:
            if pieces:
                self.said += [question, {"role": "assistant", "content": "".join(pieces)}]

    def _pieces(self, messages: list[dict[str, str]]) -> Iterator[str]:
        if self._stream:
            yield from self._client.chat(self._uid, messages, **self._options)
        else:
            yield self._client.answer(self._uid, messages, **self._options)


def chat(
    model_uid: Uid,
    endpoint: Endpoint = None,
    system: Annotated[str | None, typer.Option("--system", help="What the model is told before all else.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max_tokens", "--max-tokens", min=1, help="Of an answer; default, as many as its window holds.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", min=0, help="0 for the likeliest words; default, the model's own.")
    ] = None,
    stream: Annotated[str, typer.Option("--stream", metavar="true|false", help="Whether words are shown as they come.")] = "true",
    api_key: Key = None,
) -> None:
    """Talk to a model; /help tells more. Questions may also come from a pipe, one a line."""
    if stream.lower() not in ("true", "false"):
        fail(f"--stream must be true or false, not {stream}")
    options = {name: given for name, given in (("max_tokens", max_tokens), ("temperature", temperature)) if given is not None}
    try:
        client = connect(endpoint, api_key)
        _greet(model_uid, client.describe(model_uid))
    except Failed as error:
        fail(str(error))
    conversation = Conversation(client, model_uid, system, stream.lower() == "true", options)
    if sys.stdin.isatty():
        say("/help for help, /quit to end")
        with _remembered():
            _talk(conversation)
    else:
        _talk(conversation)


def _greet(uid: str, model: dict[str, Any]) -> None:
    """Failed where no question could be answered. One that sleeps is woken by the first."""
    status = model.get("status", "READY")
    if status == "ERROR":
        raise Failed(f"{uid} cannot be served: {model['message']}")
    if status != "READY":
        say(f"{uid} is not ready yet: {model['message'] or status}")


def _talk(conversation: Conversation) -> None:
    while True:
        try:
            words = _read()
        except EOFError:
            return
        except KeyboardInterrupt:
            print()
            continue
        command, _, rest = words.partition(" ")
        if command in ("/quit", "/exit"):
            return
        if command == "/help":
            print(HELP)
        elif command in ("/clear", "/system"):
            conversation.said.clear()
            conversation.system = rest.strip() if command == "/system" else conversation.system
        elif words.startswith("/") and words[1:2].isalpha() and "\n" not in words and not rest:
            say(f"there is no command {command}; /help lists them")
        elif words.strip():
            _show(conversation, words)


def _show(conversation: Conversation, words: str) -> None:
    """A person may try again after an error; a pipe ends with it."""
    print("Assistant: ", end="", flush=True)
    pieces = conversation.answer(words)
    try:
        with contextlib.closing(pieces):
            for piece in pieces:
                print(piece, end="", flush=True)
        print()
    except KeyboardInterrupt:
        print(" (stopped)")
    except Failed as error:
        print()
        if not sys.stdin.isatty():
            fail(str(error))
        say(f"error: {error}")


def _read() -> str:
    """A line, or several; EOFError at the end."""
    line = _line("User: ")
    if line.startswith(BLOCK):
        lines = [line.removeprefix(BLOCK)]
        while not lines[-1].endswith(BLOCK):
            lines.append(_line("... "))
        return "\n".join(lines).removesuffix(BLOCK).strip("\n")
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1].removesuffix("\\")
        lines.append(_line("... "))
    return "\n".join(lines)


def _line(prompt: str) -> str:
    return input(prompt if sys.stdin.isatty() else "")


@contextlib.contextmanager
def _remembered() -> Iterator[None]:
    """Arrow keys reach what was typed before, in earlier conversations too."""
    import readline

    # It takes a while to import.
    from jitney_gateway.local.server import default_folder

    file = default_folder() / "chat_history"
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(MOST_REMEMBERED)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            _make_private(file)
            readline.write_history_file(file)


def _make_private(file: Path) -> None:
    """What people say to a model is nobody else's."""
    file.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600))
