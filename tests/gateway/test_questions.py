"""Names of questions and how questions end, without a server."""

from __future__ import annotations

import asyncio

import pytest

from jitney_gateway.errors import GatewayError
from jitney_gateway.server.question import Ended
from jitney_gateway.server.questions import MOST_AWAITED, Questions

MINE = ("key", "model", "mine")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_name_that_was_aborted_before_it_came_is_refused_for_so_long():
    clock = Clock()
    questions = Questions(clock)
    questions.await_end(MINE, 5)
    for other in (("other", "model", "mine"), ("key", "other", "mine"), ("key", "model", "other"), ("key", "model", "")):
        questions.begin(other)
    for clock.now in (0.0, 4.9):
        with pytest.raises(GatewayError, match="the request was aborted before it came, by its request_id mine") as told:
            questions.begin(MINE)
        assert (told.value.status, told.value.code) == (499, "aborted")
    clock.now = 5.0
    questions.begin(MINE)
    assert questions.end(MINE)


def test_one_that_was_refused_is_told_to_who_aborts_again():
    questions = Questions(Clock())
    questions.await_end(MINE, 5)
    assert not questions.end(MINE), "none came"
    with pytest.raises(GatewayError):
        questions.begin(MINE)
    assert [questions.end(MINE), questions.end(MINE)] == [True, False]
    questions.begin(MINE)


@pytest.mark.parametrize("seconds", [0, 0.0])
def test_no_time_at_all_also_takes_an_earlier_one_back(seconds: float):
    questions = Questions(Clock())
    questions.await_end(MINE, 5)
    questions.await_end(MINE, seconds)
    questions.begin(MINE)


def test_names_that_are_waited_for_are_bounded_and_the_oldest_goes():
    clock = Clock()
    questions = Questions(clock)
    for number in range(MOST_AWAITED + 1):
        questions.await_end(("key", "model", str(number)), 5)
    questions.begin(("key", "model", "0"))
    for number in (1, MOST_AWAITED):
        with pytest.raises(GatewayError):
            questions.begin(("key", "model", str(number)))
    clock.now = 6.0
    questions.await_end(MINE, 5)
    clock.now = 7.0
    for number in range(MOST_AWAITED - 1):
        questions.await_end(("key", "model", str(number)), 5)
    with pytest.raises(GatewayError):
        questions.begin(MINE)


async def test_all_are_ended_with_the_reason_and_so_is_who_comes_later():
    questions, error = Questions(Clock()), GatewayError(503, "leaving", code="leaving")
    named, unnamed, over = questions.begin(MINE), questions.begin(("key", "model", "")), questions.begin(("key", "model", "over"))
    questions.forget(over)
    waiting = [asyncio.create_task(question.wait(asyncio.Event().wait())) for question in (named, unnamed)]
    await asyncio.sleep(0)
    questions.end_all(error)
    assert [type(ended) for ended in await asyncio.gather(*waiting, return_exceptions=True)] == [Ended, Ended]
    assert [str(question.error) for question in (named, unnamed)] == ["leaving"] * 2
    assert over.error.code == "aborted"
    with pytest.raises(GatewayError, match="leaving"):
        questions.begin(("key", "model", "late"))


async def test_nothing_is_begun_after_the_close_and_what_is_under_way_goes_on():
    questions, error = Questions(Clock()), GatewayError(503, "leaving", code="leaving", retry_after=1)
    await questions.none()
    first, second = questions.begin(MINE), questions.begin(("key", "model", ""))
    questions.close(error)
    told = []
    for _ in range(2):
        with pytest.raises(GatewayError, match="leaving") as late:
            questions.begin(("key", "model", "late"))
        told.append(late.value)
    assert (told[0].status, told[0].code, told[0].retry_after) == (503, "leaving", 1)
    assert told[0] is not told[1], "each that is raised keeps what raised it"
    assert questions.end(MINE)
    ending = asyncio.create_task(questions.none())
    for question in (first, first):
        questions.forget(question)
        await asyncio.sleep(0)
        assert not ending.done()
    questions.forget(second)
    await asyncio.wait_for(ending, 30)


def test_what_is_under_way_in_a_block_is_forgotten_after_it():
    questions = Questions(Clock())
    with pytest.raises(ZeroDivisionError), questions.under_way(MINE):
        raise ZeroDivisionError
    assert not questions.end(MINE)


async def test_an_abort_ends_all_of_its_name_and_no_other():
    questions = Questions(Clock())
    mine = [questions.begin(MINE) for _ in range(2)]
    others = [questions.begin(name) for name in (("other", "model", "mine"), ("key", "model", ""), ("key", "model", ""))]
    assert questions.end(MINE)
    assert not questions.end(("key", "model", "")), "without a name there is nothing to end it by"
    for question in mine:
        with pytest.raises(Ended):
            await question.wait(asyncio.sleep(0))
    for question in others:
        await question.wait(asyncio.sleep(0))


def test_no_key_loses_its_names_to_another():
    questions = Questions(Clock())
    questions.await_end(MINE, 5)
    for number in range(MOST_AWAITED + 1):
        questions.await_end(("other", "model", str(number)), 5)
    with pytest.raises(GatewayError):
        questions.begin(MINE)
    questions.begin(("other", "model", "0"))


async def test_the_first_end_of_a_question_counts():
    questions = Questions(Clock())
    question = questions.begin(MINE)
    assert questions.end(MINE)
    questions.end_all(GatewayError(503, "leaving"))
    assert question.error.code == "aborted"
