"""Sentences for people: as long as a field takes, and told once however often they are said. Pure."""

from __future__ import annotations

import re

# Compared is the beginning: what is behind it may have been cut, and a longer number before the cut moves it.
COMPARED, MOVED = 900, 64

# Told when it changes, although it is a number.
_CODE = r"(?P<code>\b(?:HTTP(?:/[\d.]+)?|(?:\w+_)?(?:code|status|errno)|CUDA error|signal)\b\"?[ =:]{1,2}-?\d+\b)"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_UNIT = r"(?:[nuµm]?s|m|h|%|[KMGT]?i?B)"
# Of one attempt: its ids and addresses, its time, and figures that stand alone. `model-00001-of-00002` is a name, and so is `hub-2`.
_PASSING = "|".join(
    (
        _CODE,
        r"\b(?:request|trace|correlation|cf)[ _-]?id\b[ =:]+[^\s)\],]+",
        r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        r"\b0x[0-9a-f]+",
        r"[0-9a-f]{16,}",
        r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{8,}\b",
        r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z| ?[+-]\d\d:?\d\d)?)?",
        rf"(?:\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun),? )?\b(?:\d\d?[ /-]{_MONTH}|{_MONTH} +\d\d?)\b",
        r"\b\d\d?:\d\d:\d\d(?:[.,]\d+)?(?: ?[AP]M\b)?",
        r"\d+(?:\.\d+){3}(?::\d+)?",
        # How often the kubelet has tried, at the end of a container's name.
        r'(?<=_)\d+(?=")',
        rf"(?<![\w.-])-?\d[\d.,:]*(?:{_UNIT}\d[\d.,:]*)*{_UNIT}?(?![\w-])",
    )
)
_FIGURES = re.compile(_PASSING, re.IGNORECASE)
# And each number anywhere, and words that look thrown: `tmpk3j_x9ab`.
_NUMBERS = re.compile(rf"{_PASSING}|\b(?=\w{{8}})\w*\d[a-z]\w*|\d+", re.IGNORECASE)


def clipped(text: str, longest: int) -> str:
    """`text`, or its beginning and an ellipsis: a field that is too long would have the server refuse the whole status."""
    return text if len(text) <= longest else f"{text[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"


def alike(one: str, other: str, *, names: bool) -> bool:
    """Whether they differ in nothing but what belongs to one attempt. `names`: a number within a name is a difference."""
    shapes = [(_FIGURES if names else _NUMBERS).sub(_code_or_gap, text[:COMPARED]) for text in (one, other)]
    if min(len(one), len(other)) <= COMPARED - MOVED:
        return shapes[0] == shapes[1]
    length = max(0, min(map(len, shapes)) - MOVED)
    return shapes[0][:length] == shapes[1][:length]


def _code_or_gap(found: re.Match[str]) -> str:
    return found["code"] or "#"
