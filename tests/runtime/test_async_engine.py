"""The border between the event loop and the engine's thread: a real thread, the fake runner, and every way a request can end."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator

import pytest

from jitney_runtime.engine.async_engine import AsyncEngine, Generation
from jitney_runtime.engine.engine_thread import InProcess
from jitney_runtime.engine.sequence import FinishReason, SamplingParams
from jitney_runtime.errors import EngineOverloaded, EngineUnavailable, InvalidRequest, RequestTooLong
from support.engine import make_engine, solo
from support.rig import until


class Parts:
    """An AsyncEngine and what it is made of: 4 rows, 4 places to wait, a context of 64 tokens."""

    def __init__(self) -> None:
        self.engine, self.runner = make_engine(blocks=20)
        self.link = InProcess(self.engine)
        self.async_engine = AsyncEngine(self.link, max_waiting=4)
        self.async_engine.start()

    def submit(self, prompt: list[int], max_tokens: int = 8) -> Generation:
        return self.async_engine.submit(prompt, SamplingParams(max_tokens=max_tokens))


@pytest.fixture
async def parts() -> AsyncIterator[Parts]:
    parts = Parts()
    yield parts
    if parts.runner.gate:
        parts.runner.gate.release(10_000)
    parts.async_engine.stop()


async def collect(generation: Generation) -> tuple[list[int], FinishReason | None]:
    outputs = [output async for output in generation]
    return [output.token for output in outputs if output.token is not None], outputs[-1].finish_reason


async def test_tokens_arrive_in_order(parts: Parts):
    assert await collect(parts.submit([1, 2, 3])) == (solo([1, 2, 3], 8), FinishReason.LENGTH)


async def test_a_prompt_may_leave_room_for_one_token_and_no_less(parts: Parts):
    assert await collect(parts.submit([1] * 63, 50)) == (solo([1] * 63, 1), FinishReason.LENGTH)
    with pytest.raises(RequestTooLong, match="64 tokens, the context window 64"):
        parts.submit([1] * 64)


@pytest.mark.parametrize("prompt", [[], [997], [1, 2, 10**9]], ids=["empty", "first beyond the vocabulary", "far beyond it"])
async def test_a_prompt_that_no_step_could_compute_is_refused(parts: Parts, prompt: list[int]):
    with pytest.raises(InvalidRequest):
        parts.submit(prompt)
    assert await collect(parts.submit([996])) == (solo([996], 8), FinishReason.LENGTH)


async def test_the_queue_is_bounded_and_an_ended_request_makes_room(parts: Parts):
    parts.runner.gate = threading.Semaphore(0)
    taken = [parts.submit([number + 1]) for number in range(8)]
    with pytest.raises(EngineOverloaded, match="8 requests are running or waiting"):
        parts.submit([9])
    taken[7].close()
    parts.runner.gate.release(10_000)
    assert [await collect(generation) for generation in taken[:7]] == [(solo([n + 1], 8), FinishReason.LENGTH) for n in range(7)]
    await until(lambda: parts.async_engine.pending == 0)
    assert await collect(parts.submit([9])) == (solo([9], 8), FinishReason.LENGTH)


async def test_what_is_closed_before_a_step_is_never_computed(parts: Parts):
    parts.runner.gate = threading.Semaphore(0)
    first = parts.submit([1], 3)
    await until(lambda: len(parts.engine.scheduler.running) == 1)
    parts.submit([2]).close()
    parts.runner.gate.release(10_000)
    assert await collect(first) == (solo([1], 3), FinishReason.LENGTH)
    await until(lambda: parts.async_engine.pending == 0)
    assert {row.sequence_id for batch in parts.runner.batches for row in batch.rows} == {"seq-0"}


async def test_closing_twice_and_after_the_end_changes_nothing(parts: Parts):
    generation = parts.submit([1], 2)
    await collect(generation)
    generation.close()
    generation.close()
    assert await collect(parts.submit([1], 2)) == (solo([1], 2), FinishReason.LENGTH)


async def test_end_all_ends_everybody_and_takes_new_requests(parts: Parts):
    parts.runner.gate = threading.Semaphore(2)
    taken = [parts.submit([number + 1], 30) for number in range(8)]
    await until(lambda: len(parts.runner.batches) == 2)
    parts.async_engine.end_all(FinishReason.ABORT)
    assert [reason for _, reason in await asyncio.gather(*map(collect, taken))] == [FinishReason.ABORT] * 8
    parts.runner.gate.release(10_000)
    assert parts.async_engine.pending == 0
    await until(lambda: parts.engine.scheduler.pool.free == parts.engine.scheduler.pool.count)
    assert await collect(parts.submit([5])) == (solo([5], 8), FinishReason.LENGTH)


def dying(parts: Parts) -> None:
    """The next failing step is one too many."""
    parts.engine._failures = 2
    parts.runner.fail_when = lambda batch: True


def wait_for_death(parts: Parts) -> None:
    """Without giving the event loop a turn."""
    deadline = time.monotonic() + 10
    while parts.link.alive:
        assert time.monotonic() < deadline, "the engine lives on"
        time.sleep(0.001)


async def test_a_dead_loop_ends_every_request_and_takes_no_more(parts: Parts):
    parts.runner.gate = threading.Semaphore(0)
    taken = [parts.submit([number + 1]) for number in range(8)]
    dying(parts)
    parts.runner.gate.release()
    ends = await asyncio.wait_for(asyncio.gather(*map(collect, taken)), 10)
    assert [reason for _, reason in ends] == [FinishReason.ERROR] * 8
    with pytest.raises(EngineUnavailable, match="has stopped"):
        parts.submit([1])


async def test_a_request_that_comes_in_while_the_loop_dies_is_ended_too(parts: Parts, monkeypatch: pytest.MonkeyPatch):
    """It passed every check; by the time it is written down the engine's thread is gone."""
    parts.runner.gate = threading.Semaphore(0)
    first = parts.submit([1])
    dying(parts)
    check = parts.async_engine._check

    def check_and_be_late(prompt: list[int], field: str) -> None:
        check(prompt, field)
        assert parts.runner.gate
        parts.runner.gate.release()
        wait_for_death(parts)

    monkeypatch.setattr(parts.async_engine, "_check", check_and_be_late)
    late = parts.submit([2])
    ends = await asyncio.wait_for(asyncio.gather(collect(first), collect(late)), 10)
    assert [reason for _, reason in ends] == [FinishReason.ERROR, FinishReason.ERROR]


@pytest.mark.parametrize("seed", range(3))
async def test_many_clients_that_come_leave_and_stay(seed: int):
    """Three hundred of them on a real thread, at random moments, through a queue that is too short and a pool that is too small."""
    choose = random.Random(seed)
    engine, _ = make_engine(blocks=24, token_budget=8)
    link = InProcess(engine)
    async_engine = AsyncEngine(link, max_waiting=6)
    async_engine.start()
    refused = 0

    async def client() -> None:
        nonlocal refused
        await asyncio.sleep(choose.random() / 20)
        prompt = [choose.randint(1, 900) for _ in range(choose.randint(1, 30))]
        count, leaves_after = choose.randint(1, 30), choose.choice([None, 0, 2])
        try:
            generation = async_engine.submit(prompt, SamplingParams(max_tokens=count))
        except EngineOverloaded:
            refused += 1
            return
        got: list[int] = []
        async for output in generation if leaves_after != 0 else _nothing():
            got.append(output.token)
            if len(got) == leaves_after:
                break
        generation.close()
        assert got == solo(prompt, count if leaves_after is None else min(count, leaves_after))

    await asyncio.wait_for(asyncio.gather(*(client() for _ in range(300))), 60)
    await until(lambda: async_engine.pending == 0 and not engine.has_work)
    assert 0 < refused < 300
    assert engine.scheduler.pool.free == engine.scheduler.pool.count
    assert not async_engine._generations
    assert not link._thread._unstarted
    async_engine.stop()


async def _nothing() -> AsyncIterator[None]:
    for nothing in ():
        yield nothing
