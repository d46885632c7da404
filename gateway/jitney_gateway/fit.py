"""Whether a model would find room, told before it is launched. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """UNKNOWN where only the launch itself can tell; REFUSED where it is not memory that stands in its way."""

    FITS = "fits"
    DOES_NOT_FIT = "does_not_fit"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Fit:
    """`message` has the figures, or says who will decide."""

    verdict: Verdict
    message: str

    def told(self) -> dict[str, str]:
        return {"verdict": self.verdict.value, "message": self.message}
