"""How much of a prompt is computed beside running answers."""

from __future__ import annotations

import pytest

from jitney_runtime.engine.block_pool import BlockPool
from jitney_runtime.engine.engine import Engine
from jitney_runtime.engine.pace import LEAST, READABLE, SLOWEST, UNCUT, Pace
from jitney_runtime.engine.scheduler import Scheduler
from support.engine import FakeRunner, make_sequence, run_to_end, solo

# So long that nobody could read along if it were much longer.
STEP, TOKEN = 0.5, 0.002


def learned(step: float = STEP, token: float = TOKEN) -> Pace:
    pace = Pace()
    for _ in range(9):
        pace.observe(15, 0, step)
    for _ in range(3):
        pace.observe(15, 64, step + 64 * token)
    return pace


def test_alone_a_prompt_has_the_whole_budget():
    assert Pace().beside(0) is None
    assert learned().beside(0) is None


def test_what_is_not_known_is_guessed():
    pace = Pace()
    assert pace.beside(3) == LEAST
    pace.observe(3, 0, STEP)
    assert pace.beside(3) == LEAST
    pace.observe(0, 100, 100 * TOKEN)
    assert pace.beside(3) == int((SLOWEST - 1) * STEP / TOKEN)


def test_a_step_with_a_prompt_takes_no_more_than_a_few_without():
    for step, token in ((0.05, 0.0005), (0.2, 0.0005), (0.02, 0.0001)):
        count = learned(step, token).beside(15)
        assert count is not None
        assert step + count * token <= SLOWEST * step
        assert step + (count + 1) * token > SLOWEST * step


def test_where_many_wait_answers_come_as_fast_as_one_reads():
    """A short step is no reason to let them wait: each has its price, whatever is computed in it."""
    step = READABLE / 20
    pace = learned(step=step, token=TOKEN / 100)
    for decoding, prompts, seconds in ((4, 4, READABLE), (8, 4, READABLE / 2), (15, 1, SLOWEST * step)):
        count = pace.beside(decoding, prompts)
        assert count is not None
        assert abs(step + count * TOKEN / 100 - seconds) <= TOKEN / 50


def test_answers_that_begin_beside_prompts_are_measured_too():
    """A server that has just started is asked many things at once: no step is without a prompt for a long time."""
    pace = Pace()
    pace.observe(0, 512, 512 * TOKEN)
    pace.observe(1, LEAST, STEP + LEAST * TOKEN)
    count = pace.beside(1)
    assert count is not None
    assert abs(count - (SLOWEST - 1) * STEP / TOKEN) <= 1


def test_a_short_prompt_is_not_cut():
    """Nor a long one's first chunk made longer; and the token budget bounds both."""

    class Slow(Pace):
        def beside(self, decoding: int, prompts: int = 1) -> int | None:
            return LEAST if decoding else None

    for length, budget, first in ((UNCUT, 512, UNCUT), (UNCUT + 1, 512, LEAST), (UNCUT, 33, 32)):
        runner = FakeRunner(4)
        engine = Engine(Scheduler(BlockPool(400, 4), 4, budget, 1000, pace=Slow()), runner)
        engine.add(make_sequence("answer", [1, 2, 3], max_tokens=60))
        for _ in range(2):
            engine.step()
        engine.add(make_sequence("new", list(range(1, length + 1)), max_tokens=2))
        engine.step()
        assert {row.sequence_id: len(row.tokens) for row in runner.batches[-1].rows} == {"answer": 1, "new": first}


@pytest.mark.parametrize("first", [3, 10, 15, 16, 17, 40, 200])
def test_a_first_prompt_that_says_little_is_not_believed_for_long(first: int):
    """A short one's tokens seem dear, because a step has a price of its own; and no step is without a prompt until all have come in."""
    pace = Pace()
    price = lambda tokens: 0.05 + 0.0005 * tokens  # noqa: E731
    pace.observe(0, first, price(first))
    for _ in range(12):
        count = pace.beside(1, 15)
        assert count is not None
        pace.observe(1, count, 0.05 + price(count))
    assert count > 300
    assert 0.05 + price(count) < 2 * READABLE


def test_a_clock_that_stands_still_is_survived():
    pace = Pace()
    pace.observe(0, 5, 0.0)
    pace.observe(1, 0, 0.0)
    assert pace.beside(1) is not None


def test_every_prompt_that_could_have_a_row_counts():
    """And who waits in vain for a row does not."""
    seen: list[tuple[int, int]] = []

    class Listening(Pace):
        def beside(self, decoding: int, prompts: int = 1) -> int | None:
            seen.append((decoding, prompts))
            return LEAST if decoding else None

    engine = Engine(Scheduler(BlockPool(400, 4), 4, 512, 1000, pace=Listening()), FakeRunner(4))
    engine.add(make_sequence("answer", [1, 2, 3], max_tokens=60))
    engine.step()
    for number in range(5):
        engine.add(make_sequence(f"new{number}", list(range(1, 100)), max_tokens=2))
    for _ in range(2):
        engine.step()
    assert seen == [(0, 1), (1, 3), (1, 3)]


def test_short_prompts_together_stay_within_the_token_budget():
    class Slow(Pace):
        def beside(self, decoding: int, prompts: int = 1) -> int | None:
            return UNCUT + 10

    for lengths in ((10, 60), (60, 60, 60)):
        runner = FakeRunner(4)
        engine = Engine(Scheduler(BlockPool(400, 4), 4, UNCUT, 1000, pace=Slow()), runner)
        engine.add(make_sequence("answer", [1, 2, 3], max_tokens=60))
        engine.step()
        for number, length in enumerate(lengths):
            engine.add(make_sequence(f"new{number}", list(range(1, length + 1)), max_tokens=2))
        for _ in range(6):
            engine.step()
        assert max(batch.token_count for batch in runner.batches) == UNCUT


def test_a_slow_prompt_gets_on_all_the_same():
    assert learned(token=1.0).beside(15) == LEAST


def test_it_follows_what_a_prompt_costs_as_it_grows():
    pace = learned()
    before = pace.beside(15)
    for _ in range(2):
        pace.observe(15, 60, STEP + 60 * 3 * TOKEN)
    after = pace.beside(15)
    assert before is not None
    assert after is not None
    assert before // 3 - 1 <= after <= before // 3 + 1


def test_one_step_that_the_machine_held_up_changes_nothing():
    pace = learned()
    before = pace.beside(15)
    pace.observe(15, 0, 5.0)
    pace.observe(15, 40, 5.0)
    assert pace.beside(15) == before


def test_steps_of_a_fuller_batch_are_no_measure_for_long():
    """Many answers end while prompts wait: each step has a prompt, and takes less than what is remembered of steps without."""
    pace = learned()
    for _ in range(20):
        pace.observe(1, 64, STEP / 4)
        count = pace.beside(1)
        assert count is not None
        assert count <= int((SLOWEST - 1) * STEP / TOKEN)


def test_a_prompt_arrives_beside_answers_in_bearable_chunks():
    """Taken from what the engine itself observes; the clock here is the test's."""

    class Fixed(Pace):
        def observe(self, decoding: int, prompt_tokens: int, seconds: float) -> None:
            super().observe(decoding, prompt_tokens, STEP * bool(decoding) + prompt_tokens * TOKEN)

    runner = FakeRunner(4)
    engine = Engine(Scheduler(BlockPool(400, 4), 4, 512, 1000, pace=Fixed()), runner)
    engine.add(make_sequence("answer", [1, 2, 3], max_tokens=60))
    for _ in range(12):
        engine.step()
    long = [number % 900 + 1 for number in range(700)]
    engine.add(make_sequence("long", long, max_tokens=2))
    answers = run_to_end(engine)
    chunks = [len(row.tokens) for batch in runner.batches for row in batch.rows if row.sequence_id == "long"][:-1]
    bearable = int((SLOWEST - 1) * STEP / TOKEN)
    assert all(chunk == bearable for chunk in chunks[1:-1])
    assert sum(chunks) == 700
    assert answers["long"] == solo(long, 2)
    beside = [batch for batch in runner.batches if any(row.sequence_id == "long" for row in batch.rows)]
    assert all("answer" in [row.sequence_id for row in batch.rows] for batch in beside[: len(chunks)])
