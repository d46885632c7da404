"""How long a process that has ended waits until it is started again. Pure."""

from __future__ import annotations

# Seconds: of the first pause and the longest, and for how long a process served that begins anew with the first.
FIRST, LONGEST, LASTING = 1.0, 30.0, 60.0


def pause(before: float, served: float) -> float:
    """In seconds. `before` is the last one, 0 where there was none; `served` is how long the process that ended had been ready."""
    return min(LONGEST, before * 2) if before and served < LASTING else FIRST
