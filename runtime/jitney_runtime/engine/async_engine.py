"""The border between the event loop and the engine's thread.

Event loop: submit, abort, end_all, Generation. Engine thread: _loop and everything it calls. They share two things: the command list
(under `_wake`) and `_pending`, whose single operations are atomic. Outputs cross back as one call_soon_threadsafe per step.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from jitney_runtime.engine.engine import Engine, EngineStats, StepReport
from jitney_runtime.engine.sequence import FinishReason, SamplingParams, Sequence, TokenOutput
from jitney_runtime.errors import EngineOverloaded, EngineUnavailable, InvalidRequest, RequestTooLong

logger = logging.getLogger(__name__)


class StepObserver(Protocol):
    """Told of every step, and of the seconds a request waited for its first one. Called on the engine's thread."""

    def step(self, report: StepReport, stats: EngineStats) -> None: ...

    def queued(self, seconds: float) -> None: ...


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
    """Runs an Engine on a thread of its own. `max_waiting` requests may wait beyond the batch; one more is EngineOverloaded."""

    def __init__(self, engine: Engine, max_waiting: int, observer: StepObserver | None = None) -> None:
        self._engine = engine
        self._capacity = engine.scheduler.max_num_seqs + max_waiting
        self._observer = observer
        self._commands: list[Callable[[], None]] = []
        # Each request not ended yet, and when it came: added on the event loop, taken out on the engine's thread.
        self._pending: dict[str, float] = {}
        self._unstarted: set[str] = set()
        self._wake = threading.Condition()
        self._stopping = False
        self._dead = False
        self._ids = itertools.count()
        self._generations: dict[str, Generation] = {}
        self._loop_of_caller: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    @property
    def max_model_len(self) -> int:
        return self._engine.scheduler.max_model_len

    @property
    def alive(self) -> bool:
        return not self._dead

    @property
    def pending(self) -> int:
        """Requests taken and not ended yet."""
        return len(self._pending)

    def start(self) -> None:
        self._loop_of_caller = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, prompt: list[int], params: SamplingParams, field: str = "prompt") -> Generation:
        """Take a request of `prompt` token ids. A RequestError refuses it, in words: empty, too long, no room, dead.

        `field` is what the client calls its prompt.
        """
        self._check(prompt, field)
        sequence = Sequence(f"seq-{next(self._ids)}", list(prompt), params)
        sequence.seed = params.seed if params.seed is not None else random.getrandbits(63)
        generation = Generation(sequence.id, len(prompt), self.abort)
        # Registered before the engine hears of it: the first token may come at once.
        self._generations[sequence.id] = generation
        self._pending[sequence.id] = time.perf_counter()
        self._command(lambda: self._add_on_thread(sequence))
        return generation

    def _check(self, prompt: list[int], field: str) -> None:
        if self._dead:
            raise EngineUnavailable("the engine has stopped after repeated failures; the pod will be restarted")
        if not prompt:
            raise InvalidRequest("the prompt is empty: it has no tokens", field)
        if max(prompt) >= self._engine.runner.vocabulary:
            # In a step it would fail, and its neighbours with it.
            raise InvalidRequest("the prompt has a token that the model's vocabulary does not have", field)
        if len(prompt) + 1 > self.max_model_len:
            raise RequestTooLong(
                f"the prompt has {len(prompt)} tokens, the context window {self.max_model_len}, and an answer needs at least one: shorten "
                f"the {field}",
                field,
            )
        if len(self._pending) >= self._capacity:
            raise EngineOverloaded(
                f"{len(self._pending)} requests are running or waiting, which is the most this server takes: try again shortly"
            )

    def abort(self, sequence_id: str) -> None:
        """End a request from the event loop's side; its row is free before the next step."""
        self._generations.pop(sequence_id, None)
        self._command(lambda: self._abort_on_thread(sequence_id))

    def end_all(self, reason: FinishReason) -> None:
        """End every request that has not ended, each with a last output that says why."""
        for sequence_id in list(self._generations):
            self._generations[sequence_id].deliver(TokenOutput(sequence_id, None, reason))
            self.abort(sequence_id)

    def _command(self, command: Callable[[], None]) -> None:
        with self._wake:
            self._commands.append(command)
            self._wake.notify()

    def stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout=5)

    # Engine thread only, from here on.

    def _add_on_thread(self, sequence: Sequence) -> None:
        self._unstarted.add(sequence.id)
        self._engine.add(sequence)

    def _abort_on_thread(self, sequence_id: str) -> None:
        self._engine.abort(sequence_id)
        self._pending.pop(sequence_id, None)
        self._unstarted.discard(sequence_id)

    def _loop(self) -> None:
        try:
            while self._take_commands():
                self._publish(self._engine.step())
        except Exception:
            logger.exception("the engine's loop is dead")
            self._die()

    def _take_commands(self) -> bool:
        """Wait for work and carry the commands out; False when asked to stop."""
        with self._wake:
            while not (self._commands or self._engine.has_work or self._stopping):
                self._wake.wait()
            commands, self._commands = self._commands, []
        for command in commands:
            command()
        return not self._stopping

    def _publish(self, report: StepReport) -> None:
        self._observe(report)
        for output in report.outputs:
            if output.finish_reason:
                self._pending.pop(output.sequence_id, None)
        if report.outputs and self._loop_of_caller:
            self._loop_of_caller.call_soon_threadsafe(self._deliver, report.outputs)

    def _observe(self, report: StepReport) -> None:
        step_started = time.perf_counter() - report.seconds
        # A preempted sequence begins again; only its first beginning ends its time in the queue.
        begun = self._unstarted.intersection(report.begun)
        self._unstarted -= begun
        if self._observer is None:
            return
        for sequence_id in begun:
            self._observer.queued(max(0.0, step_started - self._pending[sequence_id]))
        self._observer.step(report, self._engine.stats())

    def _die(self) -> None:
        # First the mark, then the end of all: a request that slips in between is among those that the event loop ends.
        self._dead = True
        if self._loop_of_caller:
            self._loop_of_caller.call_soon_threadsafe(self.end_all, FinishReason.ERROR)

    # Event loop.

    def _deliver(self, outputs: list[TokenOutput]) -> None:
        for output in outputs:
            generation = self._generations.get(output.sequence_id)
            if generation is None:
                continue
            generation.deliver(output)
            if output.finish_reason:
                del self._generations[output.sequence_id]
