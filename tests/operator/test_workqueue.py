"""Each key once in the queue, never twice at work."""

from __future__ import annotations

import asyncio

from jitney_operator.api import Key
from jitney_operator.workqueue import Priority, WorkQueue

A, B = Key("n", "a"), Key("n", "b")


async def test_a_burst_is_one_key():
    queue = WorkQueue()
    for _ in range(100):
        queue.add(A)
    assert await queue.take() == A
    assert len(queue) == 0


async def test_what_comes_while_it_is_at_work_comes_once_again():
    queue = WorkQueue()
    queue.add(A)
    await queue.take()
    for _ in range(100):
        queue.add(A)
    waiting = asyncio.create_task(queue.take())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    queue.done(A)
    assert await asyncio.wait_for(waiting, 1) == A
    assert len(queue) == 0


async def test_what_a_person_waits_for_goes_first():
    queue = WorkQueue()
    queue.add(A, Priority.RESYNC)
    queue.add(B, Priority.SPEC)
    assert [await queue.take(), await queue.take()] == [B, A]


async def test_delays_double_and_are_forgotten():
    queue = WorkQueue()
    delays = [queue.retry(A) for _ in range(4)]
    assert delays[0] < 0.13 < 0.6 < delays[3]
    assert all(queue.retry(A, 0.0, 2.0) <= 2.0 for _ in range(20))
    queue.forget(A)
    assert queue.retry(A) < 0.13


async def test_of_several_delays_the_earliest_counts_and_a_burst_is_one_look():
    queue = WorkQueue()
    queue.add_after(A, 30)
    for _ in range(100):
        queue.add_after(A, 0.02)
        await asyncio.sleep(0.0001)
    assert await asyncio.wait_for(queue.take(), 1) == A
    queue.done(A)
    await asyncio.sleep(0.05)
    assert len(queue) == 0


async def test_a_look_answers_what_waits_for_a_timer_but_not_what_is_asked_for_meanwhile():
    queue = WorkQueue()
    queue.add_after(A, 0.02)
    queue.add(A)
    await queue.take()
    queue.add_after(A, 0.01)
    queue.done(A)
    assert await asyncio.wait_for(queue.take(), 1) == A
    queue.done(A)
    await asyncio.sleep(0.05)
    assert len(queue) == 0


async def test_of_several_workers_each_gets_a_key():
    queue = WorkQueue()
    workers = [asyncio.create_task(queue.take()) for _ in range(2)]
    await asyncio.sleep(0)
    queue.add(A)
    queue.add(B)
    assert set(await asyncio.wait_for(asyncio.gather(*workers), 1)) == {A, B}
