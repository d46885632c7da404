"""The affinity key of a request: requests that begin alike have the same, so that they may meet what one replica computed before. Pure.

Whole messages are taken from the beginning until there is enough of them to be worth finding again, and what is too long is cut. So a long
system prompt is the key of all that share it; a short one, together with the first question, is the key of one conversation in all its
turns; and a conversation that begins with "Hi" has one from its second turn on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

# Characters. Less than some 64 tokens are computed sooner than a replica that has more to do comes to it.
LEAST = 256
# A long text is known by its beginning: instructions are the same, and the document below them is not.
MOST = 1024


def key_of(body: Any) -> bytes | None:
    """Of a chat's or a completion's body as it was sent, right or wrong; None where its beginning is too short to matter."""
    if not isinstance(body, dict):
        return None
    messages, prompt = body.get("messages"), body.get("prompt")
    if isinstance(messages, list):
        beginning = _beginning(_message(message) for message in messages)
    else:
        beginning = _beginning([prompt if isinstance(prompt, str) else _text(prompt)]) if prompt else None
    return None if beginning is None else hashlib.blake2b(beginning.encode(errors="surrogatepass"), digest_size=16).digest()


def _beginning(parts: Iterable[str]) -> str | None:
    """As many parts as it takes to be long enough."""
    found = ""
    for part in parts:
        found += part
        if len(found) >= LEAST:
            return found[:MOST]
    return None


def _message(message: Any) -> str:
    """Who says what, so that the same words of another role are other words."""
    if not isinstance(message, dict):
        return _text(message)
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part["text"] if isinstance(part, dict) and isinstance(part.get("text"), str) else _text(part) for part in content)
    return f"{message.get('role')}\0{content if isinstance(content, str) else _text(content)}\0"


def _text(value: Any) -> str:
    """Whatever else a client may send; the runtime says what is wrong with it. Lists of token ids are cut before they are written."""
    return json.dumps(value[:MOST] if isinstance(value, list) else value, sort_keys=True)
