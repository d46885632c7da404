"""Who goes away: clients, the engine, the server. Nobody is left without an answer, and nothing is left behind."""

from __future__ import annotations

import asyncio
import threading

import pytest

from jitney_runtime.engine.sequence import FinishReason
from support.rig import CHAT, COMPLETION, Rig, Visitor, chunks, until

both = pytest.mark.parametrize("stream", [True, False], ids=["streaming", "whole"])
either = pytest.mark.parametrize("route", [CHAT, COMPLETION])


@either
@both
async def test_a_client_that_goes_away_frees_its_sequence_within_one_step(rig: Rig, stream: bool, route: str):
    rig.runner.gate = threading.Semaphore(3)
    visitor = Visitor(rig, route, max_tokens=50, stream=stream)
    await until(lambda: len(rig.runner.batches) == 3)
    await visitor.leave()
    steps = len(rig.runner.batches)
    rig.runner.gate.release(1000)
    await until(lambda: not rig.engine.has_work and rig.async_engine.pending == 0)
    assert len(rig.runner.batches) - steps <= 1
    assert rig.engine.scheduler.pool.free == rig.engine.scheduler.pool.count
    assert rig.metric("jitney_requests_total", finish_reason="abort") == 1
    assert rig.state.in_flight == 0


@both
async def test_a_client_that_goes_away_while_waiting_is_never_computed(rig: Rig, stream: bool):
    rig.runner.gate = threading.Semaphore(0)
    running = [asyncio.create_task(rig.chat(max_tokens=4)) for _ in range(2)]
    await until(lambda: rig.async_engine.pending == 2)
    waiting = Visitor(rig, max_tokens=50, stream=stream)
    await until(lambda: rig.async_engine.pending == 3)
    await waiting.leave()
    rig.runner.gate.release(1000)
    await until(lambda: rig.async_engine.pending == 0)
    assert {answer.status_code for answer in await asyncio.gather(*running)} == {200}
    assert {row.sequence_id for batch in rig.runner.batches for row in batch.rows} == {"seq-0", "seq-1"}
    assert rig.metric("jitney_requests_waiting") == 0


@both
async def test_neighbours_of_a_client_that_goes_away_notice_nothing(rig: Rig, stream: bool):
    alone = await rig.text(max_tokens=30)
    rig.runner.batches.clear()
    rig.runner.gate = threading.Semaphore(0)
    neighbour = asyncio.create_task(rig.text(max_tokens=30))
    await until(lambda: rig.async_engine.pending == 1)
    visitor = Visitor(rig, max_tokens=50, stream=stream)
    await until(lambda: rig.async_engine.pending == 2)
    rig.runner.gate.release(5)
    await until(lambda: len(rig.runner.batches) == 5)
    await visitor.leave()
    rig.runner.gate.release(1000)
    assert await neighbour == alone


async def test_a_failing_step_is_500_for_its_own_requests_only(rig: Rig):
    rig.runner.fail_when = lambda batch: any(row.start == 0 and len(row.tokens) > 20 for row in batch.rows)
    bad = await rig.chat(messages=[{"role": "user", "content": "x" * 30}], max_tokens=2)
    assert (bad.status_code, bad.json()["error"]["code"]) == (500, "engine_error")
    assert (await rig.chat(max_tokens=2)).status_code == 200


async def test_a_dead_engine_answers_everybody_fails_liveness_and_refuses(rig: Rig):
    """Two requests run and two wait when the loop dies."""
    rig.runner.gate = threading.Semaphore(0)
    rig.engine._failures = 2
    rig.runner.fail_when = lambda batch: True
    taken = [asyncio.create_task(rig.chat(max_tokens=9, stream=stream)) for stream in (True, False, True, False)]
    await until(lambda: rig.async_engine.pending == 4)
    rig.runner.gate.release(1000)
    streamed, whole, waiting_streamed, waiting_whole = await asyncio.wait_for(asyncio.gather(*taken), 10)
    for answer in (streamed, waiting_streamed):
        assert chunks(answer)[-1]["error"]["code"] == "engine_error"
    for answer in (whole, waiting_whole):
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")
    assert (await rig.client.get("/livez")).status_code == 503
    assert (await rig.client.get("/readyz")).json()["status"] == "failed"
    refused = await rig.chat()
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert rig.state.in_flight == 0


async def test_before_the_model_is_there():
    rig = Rig()
    rig.state.progress.downloading(1_200_000_000, 3_100_000_000)
    ready = await rig.client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json() == {"status": "starting", "reason": "Downloading", "progress": "downloading 1.2/3.1 GB"}
    assert (await rig.client.get("/livez")).status_code == 200
    answer = await rig.chat()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    await rig.client.aclose()


@either
async def test_draining_fails_readiness_first_and_refuses_later(rig: Rig, route: str):
    assert (await rig.client.get("/readyz")).json() == {"status": "ready"}
    rig.state.draining = True
    assert (await rig.client.get("/readyz")).json() == {"status": "draining"}
    assert (await rig.ask(route, max_tokens=1)).status_code == 200
    rig.state.refusing = True
    refused = await rig.ask(route, max_tokens=1)
    assert (refused.status_code, refused.headers["connection"]) == (503, "close")
    assert (await rig.client.get("/livez")).status_code == 200


async def test_a_request_is_in_flight_from_the_door_to_its_last_byte(rig: Rig):
    rig.runner.gate = threading.Semaphore(0)
    taken = [asyncio.create_task(rig.chat(max_tokens=2, stream=stream)) for stream in (True, False)]
    await until(lambda: rig.async_engine.pending == 2)
    assert rig.state.in_flight == 2
    rig.runner.gate.release(1000)
    await asyncio.gather(*taken)
    assert rig.state.in_flight == 0
    rig.state.refusing = True
    await rig.chat()
    assert rig.state.in_flight == 0


@either
async def test_answers_that_outlast_the_drain_are_told_so(rig: Rig, route: str):
    rig.runner.gate = threading.Semaphore(2)
    streamed, whole = (asyncio.create_task(rig.ask(route, max_tokens=50, stream=stream)) for stream in (True, False))
    await until(lambda: len(rig.runner.batches) == 2)
    rig.async_engine.end_all(FinishReason.ABORT)
    assert chunks(await streamed)[-1]["error"]["code"] == "unavailable"
    assert ((await whole).status_code, "shutting down" in (await whole).text) == (503, True)
    rig.runner.gate.release(1000)
    await until(lambda: rig.engine.scheduler.pool.usage == 0)
    assert rig.async_engine.pending == 0
