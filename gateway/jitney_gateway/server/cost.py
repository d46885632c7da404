"""What a JSON text would cost to read, known before it is read. Pure.

Parsing cannot be interrupted, by a thread neither: what it may do is bounded by the signs that stand between values. Those inside of texts
are none, and a text may be as long as the body.
"""

from __future__ import annotations

from itertools import accumulate

# Lists, objects and names in objects; texts, names among them; and values in lists and objects. The first cost the most: a million of them
# is half a second in which nothing else is done, and a hundred times the memory of their text. 1,100,000 values are the token ids of a
# prompt that fills the longest windows, and take a tenth of a second.
MOST_PLACES, MOST_TEXTS, MOST_VALUES = 50_000, 300_000, 1_100_000
# Lists and objects inside of one another: what was read has to be written again.
DEEPEST = 200
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_STEPS = bytes(set(range(256)) - set(_STEPS))


def refusal(data: bytes) -> str:
    """Why a body in UTF-8 is not to be read; empty where it may be."""
    if not _is_much(data) and _opened(data) <= DEEPEST:
        return ""
    # Without escapes every quote begins a text or ends one.
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if _has_many_texts(bare) or _is_much(outside := b"".join(bare.split(b'"')[::2])):
        return f"has more than {MOST_PLACES} lists, objects and names in them, {MOST_TEXTS} texts or {MOST_VALUES} values"
    if max(accumulate(map(_STEPS.__getitem__, outside.translate(None, _NO_STEPS))), default=0) > DEEPEST:
        return f"has lists and objects more than {DEEPEST} deep in one another"
    return ""


def _opened(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _is_much(text: bytes) -> bool:
    opened = _opened(text)
    return opened + text.count(b":") > MOST_PLACES or opened + text.count(b",") > MOST_VALUES or _has_many_texts(text)


def _has_many_texts(text: bytes) -> bool:
    return text.count(b'"') > 2 * MOST_TEXTS
