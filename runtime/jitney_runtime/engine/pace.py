"""How much of a prompt is computed beside running answers, so that their next tokens are not late.

A prompt's tokens cost more or less by model, machine, kernel and how long the prompt is by now, so it is learned from what steps took.
Engine thread only; no clock in here.
"""

from __future__ import annotations

from collections import deque
from statistics import median

# With a prompt beside it a step may take so many times what it takes without.
SLOWEST = 2.5
# Prompt tokens that are computed in any case: a prompt must get on, and a chunk costs something however small it is.
LEAST = 64
# Steps that are remembered: enough that one that the machine held up does not count.
_STEPS, _PROMPTS = 9, 3


class Pace:
    """Seconds of the last steps with answers alone, and of a prompt token in the last steps that had some."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=_STEPS)
        self._tokens: deque[float] = deque(maxlen=_PROMPTS)

    def observe(self, decoding: int, prompt_tokens: int, seconds: float) -> None:
        """A step with so many answers and so many tokens of prompts took so long."""
        if not prompt_tokens:
            self._steps.append(seconds)
        elif not decoding:
            self._tokens.append(seconds / prompt_tokens)
        elif self._steps:
            alone = median(self._steps)
            if seconds <= alone:
                # It takes less even with a prompt: what is remembered, of more answers, is no measure any more.
                self._steps.append(seconds)
            else:
                self._tokens.append((seconds - alone) / prompt_tokens)

    def beside(self, decoding: int) -> int | None:
        """Prompt tokens for a step with so many answers; None for any number."""
        if not decoding:
            return None
        if not self._steps or not self._tokens:
            return LEAST
        spare, cost = (SLOWEST - 1) * median(self._steps), median(self._tokens)
        return max(LEAST, int(spare / cost))
