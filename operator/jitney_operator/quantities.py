"""Kubernetes quantities: `4Gi`, `500m`, `1e3`."""

from __future__ import annotations

import re
from decimal import Decimal, DecimalException

_SUFFIXES = {"": Decimal(1), "m": Decimal("0.001"), "u": Decimal("0.000001"), "n": Decimal("0.000000001")}
_SUFFIXES |= {letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", 1)}
_SUFFIXES |= {letter + "i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", 1)}
_MOST_DIGITS = 30
_PATTERN = re.compile(r"^([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:[eE]([+-]?[0-9]+)|([numkMGTPE]|[KMGTPE]i)?)$")


def parse(text: str | int | float) -> Decimal:
    """The number behind a quantity; ValueError when it is none."""
    match = _PATTERN.match(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a quantity such as 4Gi or 500m")
    number, exponent, suffix = match.groups()
    try:
        amount = Decimal(number) * (Decimal(10) ** int(exponent) if exponent else _SUFFIXES[suffix or ""])
    except DecimalException as error:
        raise ValueError(f"{text!r} is more than any machine has") from error
    if amount and amount.adjusted() > _MOST_DIGITS:
        # 1e999999 is eight letters and takes half a minute to write out as a whole number, in which the event loop does nothing else.
        raise ValueError(f"{text!r} is more than any machine has")
    return amount


def size(value: str | int) -> int:
    """Bytes."""
    return int(parse(value))


def gib(value: int) -> str:
    """Bytes for a person and for the status: `1.3Gi`."""
    return f"{value / 1024**3:.2f}Gi"
