"""How far the start has come, in words that the resource shows. Written where the model is loaded, read by the event loop."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    DOWNLOADING = "Downloading"
    LOADING = "Loading"
    WARMING_UP = "WarmingUp"


@dataclass(frozen=True)
class Step:
    stage: Stage
    text: str


class Progress:
    """The current step. Assignment of one reference is atomic, so no lock."""

    def __init__(self) -> None:
        self.step = Step(Stage.LOADING, "starting")

    def downloading(self, done: int, total: int) -> None:
        """Bytes that are there, of how many; a small model's in megabytes, or nothing would move."""
        words = f"{done / 1e9:.1f}/{total / 1e9:.1f} GB" if total >= 1e9 else f"{done / 1e6:.0f}/{total / 1e6:.0f} MB"
        self.step = Step(Stage.DOWNLOADING, f"downloading {words}")

    def loading(self, percent: int) -> None:
        self.step = Step(Stage.LOADING, f"loading {percent} %")

    def rounding(self, done: int, count: int) -> None:
        """Linear layers whose weights are made smaller."""
        self.step = Step(Stage.LOADING, f"loading 100 %, rounding layer {done}/{count}")

    def warming_up(self) -> None:
        self.step = Step(Stage.WARMING_UP, "warming up")
