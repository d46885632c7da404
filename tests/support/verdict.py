"""How many answers equal those of `generate` alone, and how many may differ. No torch: whoever prints it need not load it."""

from __future__ import annotations

from dataclasses import dataclass, field

ALLOWED_TIES = 0.001


@dataclass
class Verdict:
    """Counts of comparisons. `wrong` names sequences that differ where they must not; `clear` counts those whose gap allows none."""

    equal: int = 0
    ties: int = 0
    wrong: list[str] = field(default_factory=list)
    clear: int = 0
    # What was measured and has no bound of its own, in sentences for whoever reads the end.
    told: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.equal + self.ties + len(self.wrong)

    @property
    def rare(self) -> bool:
        """Whether the near-ties are few enough. Strict: among less than 1,000 sequences there may be none."""
        return self.ties <= ALLOWED_TIES * self.count

    def add(self, other: Verdict) -> None:
        self.equal += other.equal
        self.ties += other.ties
        self.wrong += other.wrong
        self.clear += other.clear
        self.told += other.told

    def __str__(self) -> str:
        return (
            f"{self.count} sequences, {self.clear} of them clear throughout: {self.equal} equal token for token, "
            f"{self.ties} with a near-tie that float64 confirms, {len(self.wrong)} wrong {self.wrong[:3]}"
        )


# Of this process's tests; where several processes share them, the one that leads them has the sum (tests/conftest.py).
TOTAL = Verdict()
