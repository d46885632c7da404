"""What is asked: chats with a beginning that no server has seen, so that a prompt cache helps only where a row is about it."""

from __future__ import annotations

import random
import uuid

from bench.engine.load import Chat

TOPICS = (
    "a bus that stops everywhere",
    "the sea at night",
    "a clock that runs backwards",
    "bread",
    "an honest thief",
    "rain",
    "glass",
    "maps",
)
# Of one token each in the test model's vocabulary, with the space before.
_WORDS = (
    *("time", "people", "water", "house", "year", "day", "hand", "part", "place", "work", "week", "case", "point", "number", "group"),
    *("area", "money", "story", "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "side", "kind", "head"),
)
# Tokens of a chat beside its filling: the template, the mark and the question.
_FRAME = 32


def _mark() -> str:
    return uuid.uuid4().hex[:8]


def short(number: int, tokens: int = 64) -> Chat:
    """About 50 tokens of prompt. The mark comes before all that chats have in common."""
    question = f"Write a long story about {TOPICS[number % len(TOPICS)]}, with many turns and no early end."
    return Chat([{"role": "system", "content": f"{_mark()} You are a writer."}, {"role": "user", "content": question}], tokens)


def long(number: int, prompt: int, tokens: int = 64) -> Chat:
    """About `prompt` tokens, no two chats alike from the first word on."""
    question = f"Write a long story about {TOPICS[number % len(TOPICS)]}."
    return Chat([{"role": "system", "content": f"{_mark()} {filling(prompt)}"}, {"role": "user", "content": question}], tokens)


def filling(prompt: int) -> str:
    """Words that with the rest of a chat make about `prompt` tokens; other ones each time."""
    return " ".join(random.choices(_WORDS, k=max(1, prompt - _FRAME)))


def shared(system: str, number: int, tokens: int = 64) -> Chat:
    """A question of its own after a system prompt that others have too."""
    question = f"{_mark()} Write a long story about {TOPICS[number % len(TOPICS)]}."
    return Chat([{"role": "system", "content": system}, {"role": "user", "content": question}], tokens)


def counting(number: int, tokens: int) -> Chat:
    """An answer of digits, each a token and a whole character: every step of it can be seen by the client."""
    question = f"Count from {number} to 9999, with a comma after each number and nothing else."
    return Chat([{"role": "system", "content": f"{_mark()} You count."}, {"role": "user", "content": question}], tokens)
