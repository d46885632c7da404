"""The engine as the event loop has it: requests in, each one's tokens out as they are made. All of it lives on the event loop."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from jitney_runtime.engine.link import Abort, Add, Link, News
from jitney_runtime.engine.sequence import FinishReason, SamplingParams, TokenOutput
from jitney_runtime.errors import EngineOverloaded, EngineUnavailable, InvalidRequest, RequestTooLong


class StepObserver(Protocol):
    """Told of every step."""

    def step(self, news: News) -> None: ...


class Generation:
    """The tokens of one request, as they are made: `async for output in generation`. Whoever stops early calls `close`."""

    def __init__(self, sequence_id: str, prompt_tokens: int, abort: Callable[[str], None]) -> None:
        self.sequence_id = sequence_id
        self.prompt_tokens = prompt_tokens
        self._outputs: asyncio.Queue[TokenOutput] = asyncio.Queue()
        self._abort = abort
        self._ended = False

    def deliver(self, output: TokenOutput) -> None:
        self._outputs.put_nowait(output)

    def __aiter__(self) -> AsyncIterator[TokenOutput]:
        return self

    async def __anext__(self) -> TokenOutput:
        if self._ended:
            raise StopAsyncIteration
        output = await self._outputs.get()
        self._ended = output.finish_reason is not None
        return output

    def close(self) -> None:
        """Free the sequence before the engine's next step, if it has not ended. Safe to repeat."""
        if not self._ended:
            self._ended = True
            self._abort(self.sequence_id)


class AsyncEngine:
    """`max_waiting` requests may wait beyond the batch; one more is EngineOverloaded."""

    def __init__(self, link: Link, max_waiting: int, observer: StepObserver | None = None) -> None:
        self._link = link
        self._capacity = link.limits.max_num_seqs + max_waiting
        self._observer = observer
        self._dead = False
        self._ids = itertools.count()
        # Of each request that has not ended.
        self._generations: dict[str, Generation] = {}

    @property
    def max_model_len(self) -> int:
        return self._link.limits.max_model_len

    @property
    def alive(self) -> bool:
        return not self._dead

    @property
    def pending(self) -> int:
        """Requests taken and not ended yet."""
        return len(self._generations)

    def start(self) -> None:
        self._link.start(self._deliver, self._die)

    def submit(self, prompt: list[int], params: SamplingParams, field: str = "prompt") -> Generation:
        """Take a request of `prompt` token ids. A RequestError refuses it, in words: empty, too long, no room, dead.

        `field` is what the client calls its prompt.
        """
        self._check(prompt, field)
        generation = Generation(f"seq-{next(self._ids)}", len(prompt), self.abort)
        self._generations[generation.sequence_id] = generation
        seed = params.seed if params.seed is not None else random.getrandbits(63)
        self._link.send(Add(generation.sequence_id, list(prompt), params, seed, time.perf_counter()))
        return generation

    def _check(self, prompt: list[int], field: str) -> None:
        if self._dead:
            raise EngineUnavailable("the engine has stopped, and this server will be started again: send the request again then")
        if not prompt:
            raise InvalidRequest("the prompt is empty: it has no tokens", field)
        if max(prompt) >= self._link.limits.vocabulary:
            # In a step it would fail, and its neighbours with it.
            raise InvalidRequest("the prompt has a token that the model's vocabulary does not have", field)
        if len(prompt) + 1 > self.max_model_len:
            raise RequestTooLong(
                f"the prompt has {len(prompt)} tokens, the context window {self.max_model_len}, and an answer needs at least one: shorten "
                f"the {field}",
                field,
            )
        if len(self._generations) >= self._capacity:
            raise EngineOverloaded(
                f"{len(self._generations)} requests are running or waiting, which is the most this server takes: try again shortly"
            )

    def abort(self, sequence_id: str) -> None:
        """End a request; its row is free before the engine's next step."""
        if self._generations.pop(sequence_id, None):
            self._link.send(Abort(sequence_id))

    def end_all(self, reason: FinishReason) -> None:
        """End every request that has not ended, each with a last output that says why."""
        for sequence_id, generation in list(self._generations.items()):
            generation.deliver(TokenOutput(sequence_id, None, reason))
            self.abort(sequence_id)

    def stop(self) -> None:
        self._link.stop()

    def _deliver(self, news: News) -> None:
        if self._observer is not None:
            self._observer.step(news)
        for output in news.outputs:
            # One that was aborted meanwhile has none.
            if generation := self._generations.get(output.sequence_id):
                generation.deliver(output)
                if output.finish_reason:
                    del self._generations[output.sequence_id]

    def _die(self) -> None:
        self._dead = True
        self.end_all(FinishReason.ERROR)
