"""What became of the chats that were under way while Kubernetes replaced, added and took away pods; at the end a table of it all."""

from __future__ import annotations

import math
from dataclasses import dataclass

from product.client import Chat

# Each must be in the table when the whole suite has run.
NEEDED = frozenset({
    "maxNumSeqs edited under load", "slow answers outlive a rollout", "image changed under load", "scaled 1 to 3 to 1 under load",
    "old revision serves until the new is ready", "pod deleted politely", "Recreate under load", "suspended under load",
    "one GPU handed on", "termination in order", "autoscaled 1 to 3 to 1", "HorizontalPodAutoscaler owns replicas",
    "scaled to zero and woken", "asleep at zero and woken", "door and replica replaced",
    "one of two deleted politely",
})  # fmt: skip
# The front door is asked at its Service's address from this machine; other clusters have a metrics-server of their own, or none.
LOCAL_ONLY = frozenset({
    "HorizontalPodAutoscaler owns replicas", "scaled to zero and woken", "asleep at zero and woken", "door and replica replaced",
})  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Counts of chats. What was neither answered whole nor refused before its first byte was cut."""

    situation: str
    test: str
    asked: int
    whole: int
    refused: int

    @property
    def cut(self) -> int:
        return self.asked - self.whole - self.refused

    @property
    def wrong(self) -> str:
        if self.cut:
            return f"CUT: {self.cut} of {self.asked} chats, {self.situation}, {self.test}"
        return "" if self.asked else f"NOBODY ASKED: {self.situation}, {self.test}"


def table(rows: list[Row]) -> str:
    lines = [f"{'situation':<42} {'asked':>6} {'whole':>6} {'refused':>7} {'cut':>4}  test"]
    for row in sorted(rows, key=lambda row: row.situation):
        lines.append(f"{row.situation:<42} {row.asked:>6} {row.whole:>6} {row.refused:>7} {row.cut:>4}  {row.test}")
    return "\n".join(lines)


def refused(chat: Chat) -> bool:
    """Before its first byte, and in a way that says so: nobody listened, or 503."""
    return not chat.answer and any(word in (chat.error or "") for word in ("ConnectionRefused", "HTTP 503"))


class Rollout:
    """Keeps the rows of one test."""

    def __init__(self, test: str, rows: list[Row]) -> None:
        self._test, self._rows = test, rows

    def __call__(self, situation: str, chats: list[Chat]) -> None:
        whole = sum(not chat.error and chat.finish_reason is not None for chat in chats)
        row = Row(situation, self._test, len(chats), whole, sum(map(refused, chats)))
        self._rows.append(row)
        print(f"\n{situation}: {row.asked} chats, {row.whole} answered whole, {row.refused} refused, {row.cut} cut")

    def steps(self, begun: dict[str, float], chats: list[Chat]) -> None:
        """Situations one after the other under one load, by when each began, in Unix time: to each what was under way until the next."""
        for (situation, at), over in zip(begun.items(), [*list(begun.values())[1:], math.inf], strict=True):
            self(situation, [chat for chat in chats if chat.ended >= at and chat.started < over])
