"""The runtime's words for how far a start has come, as a share of 1. Pure."""

from __future__ import annotations

import contextlib


def share(words: str) -> float:
    """`downloading 1.2/3.1 GB` is the first half, `loading 64 %` most of the second."""
    if words.startswith("downloading "):
        there, _, total = words.removeprefix("downloading ").partition("/")
        with contextlib.suppress(ValueError, ZeroDivisionError, IndexError):
            return 0.5 * float(there.split()[0]) / float(total.split()[0])
        return 0.0
    if words.startswith("loading "):
        with contextlib.suppress(ValueError, IndexError):
            return 0.5 + 0.4 * float(words.split()[1]) / 100
    return 0.95 if words in ("warming up", "waiting for the readiness probe") else 0.0
