"""One answer on its way: tokens in from the engine, pieces of text out, with the counts and times that metrics and usage need."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Self

from starlette.concurrency import run_in_threadpool

from jitney_runtime.engine.async_engine import Generation
from jitney_runtime.engine.sequence import FinishReason, TokenOutput
from jitney_runtime.server.protocol import AnswerRequest, Usage
from jitney_runtime.server.state import ServerState, Serving
from jitney_runtime.text.detokenizer import Detokenizer

# Checking, rendering and tokenizing what came in more bytes than this would hold up everybody's stream: it goes to a thread.
_LONG_REQUEST = 4096


@dataclass(frozen=True)
class Piece:
    """New text, and the reason when it is the last piece."""

    text: str
    finish_reason: FinishReason | None = None


class Answer:
    """Whoever holds it must `close` it, however the answer ended."""

    def __init__(self, state: ServerState, generation: Generation, detokenizer: Detokenizer, started: float) -> None:
        """`started` is when the request came, by perf_counter."""
        self._state = state
        self._generation = generation
        self._detokenizer = detokenizer
        self._started = self._last = started
        self._reason: FinishReason = FinishReason.ABORT
        self._closed = False
        self.completion_tokens = 0
        state.metrics.prompt_tokens.inc(generation.prompt_tokens)

    @classmethod
    async def begin(cls, state: ServerState, serving: Serving, request: AnswerRequest, length: int) -> Self:
        """Make the prompt's tokens and hand them to the engine; a RequestError where either refuses. `length` is the request's, in
        bytes."""
        started = time.perf_counter()
        if length > _LONG_REQUEST:
            prompt = await run_in_threadpool(_prompt, request, serving)
        else:
            prompt = _prompt(request, serving)
        params = request.sampling(room=serving.engine.max_model_len - len(prompt))
        generation = serving.engine.submit(prompt, params, request.prompt_field)
        try:
            detokenizer = request.detokenizer(serving.tokenizer, prompt, serving.stops(state.settings))
        except Exception:
            # A tokenizer's own code. Nobody else would free the row.
            generation.close()
            raise
        return cls(state, generation, detokenizer, started)

    @property
    def usage(self) -> Usage:
        prompt, completion = self._generation.prompt_tokens, self.completion_tokens
        return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)

    async def pieces(self) -> AsyncIterator[Piece]:
        """Text as it is made; the last piece has a finish reason."""
        async for output in self._generation:
            piece = self._piece(output)
            if piece.text or piece.finish_reason:
                yield piece
            if piece.finish_reason:
                return

    def _piece(self, output: TokenOutput) -> Piece:
        text, reason = "", output.finish_reason
        if output.token is not None:
            self._count()
            # The token that ends a turn is a sign, not text; not every tokenizer knows it as a special one.
            text = "" if reason is FinishReason.STOP else self._detokenizer.add(output.token)
        if reason is not None:
            text += self._detokenizer.finish()
        if self._detokenizer.stopped:
            reason = FinishReason.STOP
        self._reason = reason or self._reason
        return Piece(text, reason)

    def _count(self) -> None:
        now = time.perf_counter()
        if self.completion_tokens == 0:
            self._state.metrics.first_token.observe(now - self._started)
        else:
            self._state.metrics.inter_token.observe(now - self._last)
        self._last = now
        self.completion_tokens += 1

    def close(self) -> None:
        """Free the sequence if it still runs, and book the end. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        self._generation.close()
        self._state.metrics.duration.observe(time.perf_counter() - self._started)
        self._state.metrics.ended(self._reason)


def _prompt(request: AnswerRequest, serving: Serving) -> list[int]:
    request.check()
    return request.prompt_ids(serving.tokenizer)
