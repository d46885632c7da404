"""Sentences for people, as long as a field takes. Pure."""

from __future__ import annotations


def clipped(text: str, longest: int) -> str:
    """`text`, or its beginning and an ellipsis: a field that is too long would have the server refuse the whole status."""
    return text if len(text) <= longest else f"{text[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"
