"""How much one front door takes on before it says 429 or 503. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """Requests that one replica may have from here, and that all may have together, held ones counted. While a model wakes, `held` requests
    for it may wait, for `hold_seconds` each."""

    # A runtime's own queue takes maxNumSeqs + 256 and then says 429 itself: that comes first, unless a model has a very wide batch.
    per_replica: int = 1024
    in_all: int = 4096
    held: int = 128
    # Weights that are on the node already load within it; a client's own patience is 600 seconds with OpenAI's library.
    hold_seconds: float = 300.0
