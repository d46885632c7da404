"""Beginnings that sequences share: computed once, never mixed up, given away when the pool needs the room."""

from __future__ import annotations

import random
from itertools import chain

import pytest

from jitney_runtime.engine.block_pool import BlockPool
from jitney_runtime.engine.engine import Engine
from jitney_runtime.engine.scheduler import Scheduler
from support.engine import FakeRunner, assert_whatever_comes, make_engine, make_sequence, run_to_end, solo

SIZE = 4
SYSTEM = list(range(101, 113))  # three blocks


def computed(runner: FakeRunner, name: str) -> list[int]:
    """Where each of its rows begins."""
    return [row.start for batch in runner.batches for row in batch.rows if row.sequence_id == name]


@pytest.mark.parametrize(
    ("prompt", "shared"),
    [
        ([*SYSTEM, 1, 2], 12),
        ([*SYSTEM, 7], 12),
        # Of the last token the logits are wanted, so its block is computed again.
        (SYSTEM, 8),
        (SYSTEM[:9], 8),
        ([*SYSTEM[:7], 5, 6, 7], 4),
        ([1, *SYSTEM], 0),
        (SYSTEM[:4], 0),
        # The same tokens as SYSTEM's second block, after another first one.
        ([1, 2, 3, 4, *SYSTEM[4:8], 9], 0),
        ([*SYSTEM[4:8], 9], 0),
    ],
)
def test_whole_blocks_of_a_known_beginning_are_not_computed_again(prompt: list[int], shared: int):
    engine, runner = make_engine(block_size=SIZE)
    engine.add(make_sequence("first", [*SYSTEM, 1, 2, 3], max_tokens=3))
    run_to_end(engine)
    engine.add(make_sequence("second", prompt, max_tokens=5))
    assert run_to_end(engine)["second"] == solo(prompt, 5)
    assert computed(runner, "second")[0] == shared
    assert engine.stats().shared_tokens == shared


def test_what_was_answered_is_a_beginning_too():
    """The next turn of a conversation holds the last one."""
    engine, runner = make_engine(block_size=SIZE)
    engine.add(make_sequence("turn", SYSTEM, max_tokens=9))
    answer = run_to_end(engine)["turn"]
    engine.add(make_sequence("next", SYSTEM + answer + [5], max_tokens=2))
    assert run_to_end(engine)["next"] == solo(SYSTEM + answer + [5], 2)
    assert computed(runner, "next")[0] == 20


def test_sequences_that_run_share_what_is_computed():
    engine, _ = make_engine(block_size=SIZE, max_num_seqs=3)
    engine.add(make_sequence("first", [*SYSTEM, 1], max_tokens=8))
    engine.step()
    used = engine.scheduler.pool.count - engine.scheduler.pool.free
    for name in ("second", "third"):
        engine.add(make_sequence(name, [*SYSTEM, ord(name[0])], max_tokens=8))
    engine.step()
    assert engine.scheduler.pool.count - engine.scheduler.pool.free == used + 2
    engine.abort("first")
    engine.scheduler.check_integrity()
    answers = run_to_end(engine)
    assert {name: tokens[-3:] for name, tokens in answers.items()} == {
        name: solo([*SYSTEM, ord(name[0])], 8)[-3:] for name in ("second", "third")
    }


def test_the_oldest_is_given_away_first_and_its_end_before_its_beginning():
    pool = BlockPool(8, SIZE)
    engine = Engine(Scheduler(pool, 1, 64, 8 * SIZE), FakeRunner(SIZE))
    old, young = [1] * 8 + [2], [3] * 8 + [4]
    for name, prompt in (("old", old), ("young", young)):
        engine.add(make_sequence(name, prompt, max_tokens=1))
        run_to_end(engine)
    # Four blocks are blank or half full, and one of the four that are kept is needed: the second of the old one.
    engine.add(make_sequence("other", [9] * 18, max_tokens=1))
    run_to_end(engine)
    shared = engine.stats().shared_tokens
    for prompt, expected in ((young, 8), (old, 4)):
        engine.add(make_sequence("again", prompt, max_tokens=1))
        run_to_end(engine)
        assert engine.stats().shared_tokens - shared == expected
        shared += expected


def test_a_preempted_sequence_finds_its_own_blocks_again():
    engine, runner = make_engine(blocks=8, block_size=SIZE, max_num_seqs=2, max_model_len=32)
    engine.add(make_sequence("old", [1] * 8, max_tokens=20))
    engine.add(make_sequence("young", [2] * 8, max_tokens=20))
    answers = run_to_end(engine)
    assert answers == {"old": solo([1] * 8, 20), "young": solo([2] * 8, 20)}
    assert engine.stats().preemptions >= 1
    # Begun once from nothing; what it finds again is nobody else's.
    assert computed(runner, "young").count(0) == 1
    assert engine.stats().shared_tokens == 0


def test_without_sharing_everybody_computes_everything():
    runner = FakeRunner(SIZE)
    engine = Engine(Scheduler(BlockPool(32, SIZE, sharing=False), 4, 64, 64), runner)
    for name in ("first", "second"):
        engine.add(make_sequence(name, [*SYSTEM, 1], max_tokens=3))
        run_to_end(engine)
    assert computed(runner, "second")[0] == 0
    assert engine.stats().shared_tokens == 0


@pytest.mark.parametrize("seed", range(40))
def test_shared_beginnings_change_no_answer(seed: int):
    """Prompts made of the same few parts, through pools that give away and preempt, with aborts at any moment."""
    choose = random.Random(seed)
    engine, _ = make_engine(
        blocks=choose.randint(16, 40), block_size=SIZE, max_num_seqs=choose.randint(1, 8), token_budget=choose.choice([3, 8, 64])
    )
    parts = [[choose.randint(1, 9) for _ in range(choose.randint(1, 9))] for _ in range(4)]
    prompts = {f"s{number}": list(chain(*choose.choices(parts, k=choose.randint(1, 5))))[:40] for number in range(40)}
    assert_whatever_comes(engine, choose, prompts, 8)
    assert engine.stats().shared_tokens > 0
    assert engine.scheduler.pool.free == engine.scheduler.pool.count


@pytest.mark.parametrize("spoil", ["users", "kept", "texts"])
def test_a_pool_that_is_wrong_is_noticed(spoil: str):
    engine, _ = make_engine(block_size=SIZE)
    engine.add(make_sequence("s", [*SYSTEM, 1], max_tokens=2))
    run_to_end(engine)
    pool = engine.scheduler.pool
    if spoil == "users":
        pool._users[0] += 1
    elif spoil == "kept":
        pool._blank.append(next(iter(pool._kept)))
    else:
        pool._names.popitem()
    with pytest.raises(RuntimeError, match="block pool corrupt"):
        engine.scheduler.check_integrity()
