"""GET /metrics and GET /v1/models."""

from __future__ import annotations

import asyncio
import threading
import time

from prometheus_client.parser import text_string_to_metric_families

from support.rig import Rig, until

NAMES = {
    "jitney_requests_running": "gauge",
    "jitney_requests_waiting": "gauge",
    "jitney_kv_cache_usage_ratio": "gauge",
    "jitney_batch_size": "histogram",
    "jitney_step_seconds": "histogram",
    "jitney_time_to_first_token_seconds": "histogram",
    "jitney_inter_token_latency_seconds": "histogram",
    "jitney_request_duration_seconds": "histogram",
    "jitney_queue_seconds": "histogram",
    "jitney_prompt_tokens": "counter",
    "jitney_generation_tokens": "counter",
    "jitney_requests": "counter",
    "jitney_preemptions": "counter",
    "jitney_prefix_cache_hit_tokens": "counter",
    "jitney_model_load_seconds": "gauge",
}


async def test_every_name_is_there_and_labelled(rig: Rig):
    await rig.chat(max_tokens=4)
    await until(lambda: rig.metric("jitney_generation_tokens_total") == 4)
    text = (await rig.client.get("/metrics")).text
    found = {family.name: family for family in text_string_to_metric_families(text) if not family.name.endswith("_created")}
    assert {name: family.type for name, family in found.items()} == NAMES
    for name, family in found.items():
        assert family.samples, name
        assert {sample.labels.get("model_name") for sample in family.samples} == {"fake"}, name


async def test_the_figures_of_one_answer(rig: Rig):
    await rig.chat(max_tokens=4)
    await until(lambda: rig.metric("jitney_generation_tokens_total") == 4)
    assert rig.metric("jitney_prompt_tokens_total") == 8
    assert rig.metric("jitney_step_seconds_count") == 4
    assert (rig.metric("jitney_batch_size_count"), rig.metric("jitney_batch_size_sum")) == (4, 4)
    assert rig.metric("jitney_queue_seconds_count") == 1
    assert rig.metric("jitney_time_to_first_token_seconds_count") == 1
    assert rig.metric("jitney_inter_token_latency_seconds_count") == 3
    assert rig.metric("jitney_request_duration_seconds_count") == 1
    assert rig.metric("jitney_requests_total", finish_reason="length") == 1


async def test_the_seconds_of_one_answer(rig: Rig):
    """A model that takes at least 0.1 s a step."""
    run = rig.runner.run
    rig.runner.run = lambda batch: time.sleep(0.1) or run(batch)  # type: ignore[method-assign]
    started = time.perf_counter()
    await rig.chat(max_tokens=4)
    took = time.perf_counter() - started
    await until(lambda: rig.metric("jitney_generation_tokens_total") == 4)
    assert 0.4 <= rig.metric("jitney_step_seconds_sum") <= took
    queue, first, between, whole = (
        rig.metric(f"jitney_{name}_seconds_sum") for name in ("queue", "time_to_first_token", "inter_token_latency", "request_duration")
    )
    assert 0 < queue < first
    # A token may be seen late, together with the next, but never before its step has ended.
    assert 0.09 <= first <= took - between
    assert 0.39 <= first + between <= whole <= took


async def test_the_first_token_is_waited_for_from_the_request_on(rig: Rig):
    """Making the prompt's tokens is part of it, and nothing of the queue."""
    prompt_ids = rig.tokenizer.apply_chat_template
    rig.tokenizer.apply_chat_template = lambda *turns, **options: time.sleep(0.1) or prompt_ids(*turns, **options)  # type: ignore[method-assign]
    await rig.chat(max_tokens=1)
    assert rig.metric("jitney_time_to_first_token_seconds_sum") >= 0.1
    assert rig.metric("jitney_request_duration_seconds_sum") >= 0.1


async def test_what_a_prompt_shares_with_another_is_counted(rig: Rig):
    """Eight tokens each, of which one block of four is the other's as well."""
    for _ in range(2):
        await rig.chat(max_tokens=1)
    await until(lambda: rig.metric("jitney_generation_tokens_total") == 2)
    assert rig.metric("jitney_prompt_tokens_total") == 16
    assert rig.state.metrics.registry.get_sample_value("jitney_prefix_cache_hit_tokens_total", {"model_name": "fake"}) == 4


async def test_how_full_it_is(rig: Rig):
    """Two rows of 8 tokens and one to wait; then nothing."""
    rig.runner.gate = threading.Semaphore(0)
    taken = [asyncio.create_task(rig.chat(max_tokens=6)) for _ in range(3)]
    await until(lambda: rig.async_engine.pending == 3)
    rig.runner.gate.release(3)
    await until(lambda: len(rig.runner.batches) == 3 and rig.metric("jitney_step_seconds_count") == 3)
    assert (rig.metric("jitney_requests_running"), rig.metric("jitney_requests_waiting")) == (2, 1)
    assert 0 < rig.metric("jitney_kv_cache_usage_ratio") <= 6 / 64
    rig.runner.gate.release(1000)
    await asyncio.gather(*taken)
    await until(lambda: rig.metric("jitney_requests_running") == 0)
    assert (rig.metric("jitney_requests_waiting"), rig.metric("jitney_kv_cache_usage_ratio")) == (0, 0)


async def test_preemptions_are_counted():
    rig = Rig(blocks=16)
    rig.start()
    rig.runner.gate = threading.Semaphore(0)
    messages = [{"role": "user", "content": "x" * 20}]
    taken = [asyncio.create_task(rig.chat(messages=messages, max_tokens=30)) for _ in range(2)]
    await until(lambda: rig.async_engine.pending == 2)
    rig.runner.gate.release(1000)
    await asyncio.gather(*taken)
    await until(lambda: rig.metric("jitney_generation_tokens_total") == 60)
    assert rig.metric("jitney_preemptions_total") >= 1
    assert rig.metric("jitney_queue_seconds_count") == 2
    await rig.stop()


async def test_models(rig: Rig):
    body = (await rig.client.get("/v1/models")).json()
    (model,) = body["data"]
    assert body["object"] == "list"
    assert (model["id"], model["object"], model["owned_by"], model["max_model_len"]) == ("fake", "model", "jitney", 64)
