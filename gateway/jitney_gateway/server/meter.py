"""Counts the tokens of an answer while it passes. Pure: bytes in, bytes out, and nothing is held back but an event that is not whole yet.

What counts is the usage that the runtime tells at the end. A stream tells it only where it was asked to; so the front door asks, and takes
it out again (`hide`) where the client did not.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

# Enough of an answer's end to hold its usage.
TAIL = 4096
# An event is no longer than this; what is, is passed on as it comes.
LONGEST_EVENT = 1024 * 1024
# Characters of a prompt to a token where nobody told.
CHARACTERS = 4
END = b"\n\n"


def asked_usage(body: dict[str, Any]) -> dict[str, Any] | None:
    """The body that asks for usage where this one, of a stream, does not; None where nothing has to be added."""
    options = body.get("stream_options")
    if body.get("stream") is not True or not (options is None or isinstance(options, dict)):
        return None
    # Anything else in its place is the runtime's to refuse.
    if options and options.get("include_usage", False) not in (None, False):
        return None
    return {**body, "stream_options": {**(options or {}), "include_usage": True}}


class Meter:
    """Of one answer whose status is 200."""

    def __init__(self, streamed: bool, hide: bool, characters: int) -> None:
        """`characters` of the prompt, roughly."""
        self._streamed, self._hide = streamed, hide
        self._prompt = -(-characters // CHARACTERS)
        self._held = b""
        # The pieces that hold the last TAIL bytes, uncopied: a stream has hundreds of them.
        self._last, self._kept = deque[bytes](), 0
        self._events = 0
        # Whether text of the answer has passed.
        self.spoken = False

    def feed(self, piece: bytes) -> bytes:
        """What is to be passed on of it."""
        self._last.append(piece)
        self._kept += len(piece)
        while self._kept - len(self._last[0]) >= TAIL:
            self._kept -= len(self._last.popleft())
        if not self._streamed:
            return piece
        self._events += piece.count(END)
        if not self.spoken:
            self.spoken = any(map(_speaks, piece.split(END)))
        return self._without_usage(piece) if self._hide else piece

    def rest(self) -> bytes:
        """What is left when the runtime has ended."""
        rest, self._held = self._held, b""
        return rest

    def _without_usage(self, piece: bytes) -> bytes:
        data = self._held + piece
        cut = data.rfind(END) + len(END)
        if cut < len(END):
            if len(data) > LONGEST_EVENT:
                self._held = b""
                return data
            cut = 0
        whole, self._held = data[:cut], data[cut:]
        # With it every event has the field. Inside of a text neither such quotes nor such line ends can stand.
        whole = whole.replace(b',"usage":null}\n\n', b"}\n\n")
        if b'"usage"' in whole:
            whole = b"".join(event + END for event in whole.split(END)[:-1] if not _only_usage(event))
        return whole

    def usage(self) -> tuple[int, int]:
        """Tokens of the prompt and of the completion. An answer that was cut has told nothing: then a quarter of the prompt's characters,
        and the events that passed."""
        found = _last_usage(b"".join(self._last)[-TAIL:])
        return found if found is not None else (self._prompt, self._events)


def _event(event: bytes) -> dict[str, Any]:
    try:
        body = json.loads(event.removeprefix(b"data:"))
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _speaks(event: bytes) -> bool:
    choices = _event(event).get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return False
    delta = first.get("delta")
    return bool(first.get("text") or (isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")))


def _only_usage(event: bytes) -> bool:
    body = _event(event)
    return body.get("choices") == [] and isinstance(body.get("usage"), dict)


def _last_usage(tail: bytes) -> tuple[int, int] | None:
    text = tail.decode(errors="replace")
    place = text.rfind('"usage"')
    begin = text.find("{", place)
    # Nothing but the colon stands between the name and its value.
    if place < 0 or begin < 0 or text[place + len('"usage"') : begin].strip() != ":":
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(text, begin)
    except ValueError:
        return None
    prompt, completion = found.get("prompt_tokens"), found.get("completion_tokens", 0)
    return (prompt, completion) if type(prompt) is int and type(completion) is int and min(prompt, completion) >= 0 else None
