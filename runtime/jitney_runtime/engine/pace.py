"""How much of a prompt is computed beside running answers, so that their next tokens are not late.

A prompt's tokens cost more or less by model, machine, kernel and how long the prompt is by now, so it is learned from what steps took.
Engine thread only; no clock in here.
"""

from __future__ import annotations

from collections import deque
from statistics import median

# With a prompt beside it a step may take so many times what it takes without.
SLOWEST = 2.35
# Seconds that a step may take, if that is more, where at least as many prompts wait as answers run, and less where fewer wait: two or three
# tokens a second can be read along, and each step that is shorter is one more that all who wait, wait for.
READABLE = 0.4
# Prompt tokens that are computed in any case: a prompt must get on, and a chunk costs something however small it is.
LEAST = 10
# A new prompt with so few tokens to compute is not cut: one longer step is less than a second one.
UNCUT = 64
# Steps that are remembered: enough that one that the machine held up does not count.
_STEPS, _PROMPTS = 9, 3
# Seconds of a prompt token, at least: a clock may stand still.
_COST = 1e-9


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
        elif not self._steps:
            # Prompts came together with the first answers: what a step takes without them is what they leave of it.
            rest = seconds - prompt_tokens * min(self._tokens) if self._tokens else 0.0
            if rest > 0:
                self._steps.append(rest)
            else:
                # Nothing is left: a token costs less than what was thought, and no more than its part of this step.
                self._tokens.append(seconds / prompt_tokens)
        else:
            alone = median(self._steps)
            if seconds <= alone:
                # It takes less even with a prompt: what is remembered, of more answers, is no measure any more.
                self._steps.append(seconds)
            else:
                self._tokens.append((seconds - alone) / prompt_tokens)

    def beside(self, decoding: int, prompts: int = 1) -> int | None:
        """Prompt tokens for a step with so many answers, while so many prompts have a row or could have one; None for any number.

        Whoever waits for a first token waits as much as whoever waits for the next one: the more there are of them, the longer the step.
        """
        if not decoding:
            return None
        if not self._tokens:
            return LEAST
        alone = median(self._steps) if self._steps else 0.0
        spare = max((SLOWEST - 1) * alone, READABLE * min(1.0, prompts / decoding) - alone)
        return max(LEAST, int(spare / max(median(self._tokens), _COST)))
