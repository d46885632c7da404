"""Text as it comes: whole characters, and stop strings that never leak, wherever they are cut."""

from __future__ import annotations

import pytest

from jitney_runtime.text.detokenizer import Detokenizer, Stops
from support.words import ByteTokenizer


def stream(text: str, *stops: str) -> tuple[list[str], bool]:
    detokenizer = Detokenizer(ByteTokenizer(), Stops(stops))
    pieces = [detokenizer.add(token) for token in ByteTokenizer().encode(text)]
    pieces.append(detokenizer.finish())
    return [piece for piece in pieces if piece], detokenizer.stopped


@pytest.mark.parametrize("text", ["plain", "naïve café", "日本語のテキスト", "🚌 gets on 🚏 gets off", ""])
def test_pieces_make_the_text_and_never_half_a_character(text: str):
    pieces, stopped = stream(text)
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert not stopped


def test_text_is_not_held_back_without_a_stop_string():
    assert stream("abc")[0] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "stops", "expected", "stopped"),
    [
        ("one END two", ("END",), "one ", True),
        ("one EN", ("END",), "one EN", False),
        ("aaab", ("aab",), "a", True),
        ("x###y", ("y", "###"), "x", True),
        ("über über", ("ber ",), "ü", True),
        ("END", ("END",), "", True),
    ],
    ids=["in the middle", "only begun", "overlapping itself", "the first of two", "after a wide character", "at once"],
)
def test_stop_strings(text: str, stops: tuple[str, ...], expected: str, stopped: bool):
    pieces, found = stream(text, *stops)
    assert ("".join(pieces), found) == (expected, stopped)


def test_a_broken_character_at_the_end_is_shown_as_such():
    detokenizer = Detokenizer(ByteTokenizer())
    assert detokenizer.add("é".encode()[0] + 1) == ""
    assert detokenizer.finish() == "\ufffd"


@pytest.mark.parametrize("prompt", ["", "a", "日本語", "x🚌🚏", "long enough to be cut"])
def test_an_answer_that_continues_a_text_is_only_the_answer(prompt: str):
    detokenizer = Detokenizer(ByteTokenizer(), Stops((" x",)), after=ByteTokenizer().encode(prompt))
    pieces = [detokenizer.add(token) for token in ByteTokenizer().encode("日 and x")]
    assert ("".join(pieces), detokenizer.stopped) == ("日 and", True)


def test_a_prompt_that_is_no_text_harms_nothing():
    """Token ids may end inside a character, or be none at all."""
    for prompt in ("🚌".encode()[:2], b"\xff" * 20, b"\x80"):
        detokenizer = Detokenizer(ByteTokenizer(), after=[byte + 1 for byte in prompt])
        assert "".join(detokenizer.add(token) for token in ByteTokenizer().encode("then words")).endswith("words")
