"""One answer on its way: tokens in from the engine, pieces of text out, with the counts and times that metrics and usage need."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from jitney_runtime.engine.async_engine import Generation
from jitney_runtime.engine.sequence import FinishReason
from jitney_runtime.server.metrics import Metrics
from jitney_runtime.server.protocol import Usage
from jitney_runtime.text.detokenizer import Detokenizer


@dataclass(frozen=True)
class Piece:
    """New text, and the reason when it is the last piece."""

    text: str
    finish_reason: FinishReason | None = None


class Answer:
    def __init__(self, generation: Generation, detokenizer: Detokenizer, metrics: Metrics) -> None:
        self._generation = generation
        self._detokenizer = detokenizer
        self._metrics = metrics
        self._started = self._last = time.perf_counter()
        self.completion_tokens = 0
        metrics.prompt_tokens.inc(generation.prompt_tokens)

    @property
    def usage(self) -> Usage:
        prompt, completion = self._generation.prompt_tokens, self.completion_tokens
        return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Text as it is made; the last piece has a finish reason. Closing this early frees the sequence."""
        reason: FinishReason = FinishReason.ABORT
        try:
            async with self._generation as generation:
                async for output in generation:
                    if output.token is not None:
                        self._count()
                        text = self._detokenizer.add(output.token)
                        if self._detokenizer.stopped:
                            reason = FinishReason.STOP
                            yield Piece(text, reason)
                            return
                        if text and output.finish_reason is None:
                            yield Piece(text)
                            continue
                    else:
                        text = ""
                    if output.finish_reason is not None:
                        text += self._detokenizer.finish()
                        reason = FinishReason.STOP if self._detokenizer.stopped else output.finish_reason
                        yield Piece(text, reason)
        finally:
            self._metrics.duration.observe(time.perf_counter() - self._started)
            self._metrics.ended(reason)

    def _count(self) -> None:
        now = time.perf_counter()
        first = self.completion_tokens == 0
        (self._metrics.first_token if first else self._metrics.inter_token).observe(now - (self._started if first else self._last))
        self._last = now
        self.completion_tokens += 1
