"""Tokens to text as they come: never half a character, never part of a stop string.

A tokenizer may spell a token differently after another one, so each piece is the difference of two decodings that share a short context.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass

from jitney_runtime.text.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
# So many tokens before the answer tell how its first one is spelt; up to three more, so as not to begin inside a character.
_CONTEXT = range(6, 10)
# Decoding more than so many tokens takes longer than beginning anew behind them.
_MOST_CONTEXT = 8


@dataclass(frozen=True)
class Stops:
    """What ends an answer, and is no part of it."""

    texts: tuple[str, ...] = ()
    tokens: Set[int] = frozenset()

    def and_texts(self, more: Iterable[str]) -> Stops:
        return Stops((*self.texts, *more), self.tokens)


class Detokenizer:
    """One answer's text. `stopped` turns true when one of `stops` was found; the text before it is all there is.

    `after` are tokens that the answer continues; without them its first token is spelt as the beginning of a text, which for some
    tokenizers means without its space.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Stops | None = None, after: list[int] | None = None) -> None:
        self._tokenizer = tokenizer
        self._stops = (stops or Stops()).texts
        self._stop_tokens = (stops or Stops()).tokens
        self._tokens = self._end(after or [])
        self._context = 0
        self._read = len(self._tokens)
        self._before = self._text(self._context)
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that is safe to send now; may be empty."""
        if not self.stopped and token in self._stop_tokens:
            text = self.finish()
            self.stopped = True
            return text
        self._tokens.append(token)
        return "" if self.stopped else self._release(self._decode(final=False))

    def finish(self) -> str:
        """What was held back, once no token will follow."""
        if self.stopped:
            return ""
        text = self._release(self._decode(final=True))
        rest, self._held = self._held, ""
        return text if self.stopped else text + rest

    def _decode(self, final: bool) -> str:
        after = self._text(self._context)
        if not final and after.endswith(_REPLACEMENT):
            return ""
        fresh, self._before = after[len(self._before) :], after
        if len(self._tokens) - self._context > _MOST_CONTEXT:
            self._context = self._read
            self._before = self._text(self._context)
        self._read = len(self._tokens)
        return fresh

    def _end(self, tokens: list[int]) -> list[int]:
        ends = [tokens[-length:] for length in _CONTEXT]
        whole = (end for end in ends if not self._tokenizer.decode(end, skip_special_tokens=True).startswith(_REPLACEMENT))
        return next(whole, ends[0])

    def _text(self, first: int) -> str:
        return self._tokenizer.decode(self._tokens[first:], skip_special_tokens=True)

    def _release(self, fresh: str) -> str:
        text = self._held + fresh
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        keep = self._possible_stop(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _possible_stop(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
