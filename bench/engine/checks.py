"""One promise of a row: what was found, what it must be, and whether it is kept."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

PASS, AIM, MISS, TOLD = "pass", "pass, and the aim", "MISS", ""


@dataclass(frozen=True)
class Check:
    """`figure` in `unit`; None where there is none, and `note` says why. `most`: the bounds are the highest allowed, else the lowest.

    Without a `must` and an `aim` it is told and not judged.
    """

    row: str
    what: str
    figure: float | None
    unit: str = "x"
    must: float | None = None
    aim: float | None = None
    most: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        if self.must is None and self.aim is None:
            return TOLD
        if self.aim is not None and self._keeps(self.aim):
            return AIM
        if self.must is None:
            return "aim missed"
        return PASS if self._keeps(self.must) else MISS

    @property
    def missed(self) -> bool:
        return self.verdict == MISS

    def _keeps(self, bound: float) -> bool:
        if self.figure is None:
            return False
        return self.figure <= bound if self.most else self.figure >= bound

    def _shown(self, value: float | None) -> str:
        if value is None:
            return "-"
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        return f"{value:.{digits}f}{'' if self.unit in ('x', '%') else ' '}{self.unit}"

    def _bound(self, value: float | None) -> str:
        return "" if value is None else f"{'<=' if self.most else '>='} {self._shown(value)}"

    def cells(self) -> tuple[str, ...]:
        """In the order of the table's heads: row, what, found, must, aim, verdict, note."""
        return (self.row, self.what, self._shown(self.figure), self._bound(self.must), self._bound(self.aim), self.verdict, self.note)


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Of rounds that were taken in turns."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=False))
