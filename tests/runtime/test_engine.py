"""The policy half with a fake runner: joining, leaving, chunks, preemption, failures, and that no neighbour changes an answer."""

from __future__ import annotations

import random

import pytest

from jitney_runtime.engine.block_pool import BlockPool, NoFreeBlocks
from jitney_runtime.engine.engine import FATAL_FAILURES
from jitney_runtime.engine.scheduler import Scheduler
from jitney_runtime.engine.sequence import FinishReason
from support.engine import EOS, assert_whatever_comes, make_engine, make_sequence, run_to_end, solo


def test_a_sequence_joins_a_running_batch_at_the_next_step():
    engine, runner = make_engine()
    engine.add(make_sequence("first", [1, 2, 3]))
    engine.step()
    engine.add(make_sequence("second", [4, 5]))
    engine.step()
    assert [row.sequence_id for row in runner.batches[1].rows] == ["first", "second"]


def test_a_sequence_leaves_at_the_step_that_ends_it_and_a_waiting_one_takes_its_row():
    engine, runner = make_engine(max_num_seqs=1)
    engine.add(make_sequence("short", [1], max_tokens=1))
    engine.add(make_sequence("next", [2], max_tokens=1))
    assert run_to_end(engine) == {"short": solo([1], 1), "next": solo([2], 1)}
    assert [[row.sequence_id for row in batch.rows] for batch in runner.batches] == [["short"], ["next"]]


def test_a_long_prompt_is_computed_in_chunks_beside_running_decodes():
    engine, runner = make_engine(token_budget=8)
    engine.add(make_sequence("running", [1, 2], max_tokens=10))
    engine.step()
    engine.add(make_sequence("long", list(range(1, 31)), max_tokens=2))
    answers = run_to_end(engine)
    beside = [{row.sequence_id: len(row.tokens) for row in batch.rows} for batch in runner.batches[1:5]]
    assert beside == [{"running": 1, "long": 7}] * 4
    assert answers["long"] == solo(list(range(1, 31)), 2)
    assert all(batch.token_count <= 8 for batch in runner.batches)


def test_every_decode_fits_into_a_budget_smaller_than_the_batch():
    engine, runner = make_engine(token_budget=1, max_num_seqs=4)
    for number in range(4):
        engine.add(make_sequence(str(number), [number + 1], max_tokens=5))
    run_to_end(engine)
    assert max(len(batch.rows) for batch in runner.batches) == 4


@pytest.mark.parametrize("seed", range(25))
def test_no_neighbour_order_abort_or_preemption_changes_an_answer(seed: int):
    """Random arrivals, lengths and aborts through a pool that is too small for all of them."""
    choose = random.Random(seed)
    engine, _ = make_engine(blocks=choose.randint(16, 24), max_num_seqs=choose.randint(2, 8), token_budget=choose.choice([3, 8, 64]))
    prompts = {f"s{number}": [choose.randint(1, 900) for _ in range(choose.randint(1, 40))] for number in range(20)}
    assert_whatever_comes(engine, choose, prompts, 4)


def test_preemption_takes_the_youngest_and_recomputes_it():
    engine, _ = make_engine(blocks=8, block_size=4, max_num_seqs=2, max_model_len=32)
    old, young = make_sequence("old", [1] * 8, max_tokens=20), make_sequence("young", [2] * 8, max_tokens=20)
    engine.add(old)
    engine.add(young)
    answers = run_to_end(engine)
    assert (old.preemptions, young.preemptions) == (0, engine.stats().preemptions)
    assert young.preemptions >= 1
    assert answers == {"old": solo([1] * 8, 20), "young": solo([2] * 8, 20)}
    assert engine.scheduler.pool.free == 8


def test_abort_frees_row_and_blocks_at_once_running_or_waiting():
    engine, _ = make_engine(max_num_seqs=1)
    engine.add(make_sequence("running", [1] * 9))
    engine.add(make_sequence("waiting", [2] * 9))
    engine.step()
    assert engine.abort("waiting")
    assert engine.abort("running")
    assert not engine.abort("running")
    assert engine.scheduler.pool.free == engine.scheduler.pool.count
    assert not engine.has_work


@pytest.mark.parametrize(
    ("ignore_eos", "expected"), [(False, (FinishReason.STOP, 1)), (True, (FinishReason.LENGTH, 3))], ids=["eos ends it", "eos ignored"]
)
def test_end_of_sequence_token(ignore_eos: bool, expected: tuple[FinishReason, int]):
    engine, runner = make_engine()
    runner.run = lambda batch: [EOS for _ in batch.sampled]  # type: ignore[method-assign]
    engine.add(make_sequence("s", [5], max_tokens=3, ignore_eos=ignore_eos))
    outputs = []
    while engine.has_work:
        outputs += engine.step().outputs
    assert (outputs[-1].finish_reason, len(outputs)) == expected


def test_the_context_window_ends_a_sequence():
    engine, _ = make_engine(max_model_len=10)
    engine.add(make_sequence("s", [1] * 7, max_tokens=100))
    assert len(run_to_end(engine)["s"]) == 3


def test_a_failing_step_ends_its_own_rows_and_nobody_else():
    engine, runner = make_engine(max_num_seqs=1)
    runner.fail_when = lambda batch: batch.rows[0].sequence_id == "bad"
    engine.add(make_sequence("bad", [1]))
    engine.add(make_sequence("good", [2], max_tokens=3))
    (failed,) = engine.step().outputs
    assert (failed.sequence_id, failed.token, failed.finish_reason) == ("bad", None, FinishReason.ERROR)
    assert run_to_end(engine) == {"good": solo([2], 3)}


def test_a_runner_that_keeps_failing_is_fatal():
    engine, runner = make_engine(max_num_seqs=1)
    runner.fail_when = lambda batch: True
    for number in range(FATAL_FAILURES):
        engine.add(make_sequence(str(number), [1]))
    for _ in range(FATAL_FAILURES - 1):
        engine.step()
    with pytest.raises(RuntimeError, match="told to fail"):
        engine.step()


def test_steps_without_rows_do_not_excuse_a_runner_that_keeps_failing():
    engine, runner = make_engine()
    runner.fail_when = lambda batch: True
    for number in range(FATAL_FAILURES - 1):
        engine.add(make_sequence(str(number), [1]))
        engine.step()
        assert not engine.step().rows
    engine.add(make_sequence("last", [1]))
    with pytest.raises(RuntimeError, match="told to fail"):
        engine.step()


def test_one_good_step_excuses_earlier_failures():
    engine, runner = make_engine(max_num_seqs=1)
    runner.fail_when = lambda batch: batch.rows[0].sequence_id.startswith("bad")
    for number in range(2 * FATAL_FAILURES):
        engine.add(make_sequence(f"bad-{number}", [1]))
        engine.add(make_sequence(f"good-{number}", [number + 1], max_tokens=1))
    assert len(run_to_end(engine)) == 2 * FATAL_FAILURES


def test_a_pool_too_small_for_one_sequence_is_refused_at_start():
    with pytest.raises(ValueError, match="cannot hold one sequence of 64 tokens"):
        Scheduler(BlockPool(15, 4), 4, 16, 64)


class TestBlockPool:
    def test_grow_and_release_keep_every_block_once(self):
        pool, sequence = BlockPool(4, 2), make_sequence("s", [1])
        pool.grow(sequence, 5)
        assert (len(sequence.blocks), pool.free, pool.usage) == (3, 1, 0.75)
        pool.check_integrity([sequence])
        pool.release(sequence)
        assert (sequence.blocks, pool.free) == ([], 4)

    def test_growing_beyond_the_pool_changes_nothing(self):
        pool, sequence = BlockPool(2, 2), make_sequence("s", [1])
        with pytest.raises(NoFreeBlocks, match="3 blocks wanted, 2 free"):
            pool.grow(sequence, 6)
        assert sequence.blocks == []

    @pytest.mark.parametrize("spoil", [lambda blocks: blocks.append(blocks[0]), lambda blocks: blocks.pop()], ids=["twice", "lost"])
    def test_integrity_notices(self, spoil):
        pool, sequence = BlockPool(4, 2), make_sequence("s", [1])
        pool.grow(sequence, 4)
        spoil(sequence.blocks)
        with pytest.raises(RuntimeError, match="block pool corrupt"):
            pool.check_integrity([sequence])
