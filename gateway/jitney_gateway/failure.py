"""How long a start that fails is waited for, by the launch API and the command line alike. Pure."""

from __future__ import annotations

# Seconds. A cause that may pass by itself is waited for so long before the caller is told of it.
PATIENCE = 60.0
# What a cluster may mend without a person takes it minutes: nodes are added, pods drain, those of a lost node are made elsewhere.
PLACING_PATIENCE = 600.0
PLACING = {"InsufficientGPU", "InsufficientMemory", "Unschedulable", "WaitingForDrain", "NodeLost"}


class Failure:
    """Of one start, by whoever waits for it and looks again and again."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._patience = PATIENCE

    def lasting(self, reason: str, now: float) -> str:
        """Why it is waited for no longer; empty while it is. `reason` is Model.failing, `now` in seconds of a steady clock."""
        if not reason:
            self._since = None
            return ""
        patience = PLACING_PATIENCE if reason.partition(":")[0] in PLACING else PATIENCE
        if self._since is None or patience != self._patience:
            # A pod that waited long for a node has only just begun to fail in another way.
            self._since, self._patience = now, patience
        return f"{reason} (failing for {patience:.0f} s)" if now - self._since > patience else ""
