"""Who gets a request: the ring, the key of a beginning, the counts."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from jitney_gateway.routing.bounds import Bounds
from jitney_gateway.routing.prefix import LEAST, MOST, key_of
from jitney_gateway.routing.ring import Ring, ceiling
from jitney_gateway.routing.router import REST, Crowded, Full, Router, Turn

REPLICAS = tuple(f"http://10.0.0.{number}:8000" for number in range(1, 4))
KEYS = [str(number).encode() for number in range(3000)]


def first(ring: Ring, key: bytes) -> str:
    return next(ring.order(key))


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def router(clock: Callable[[], float] | None = None, **bounds: Any) -> Router:
    return Router(Bounds(**bounds), clock or Clock())


# The ring


def test_every_key_meets_every_member_once_and_always_in_the_same_order():
    ring = Ring(REPLICAS)
    for key in KEYS[:50]:
        order = list(ring.order(key))
        assert sorted(order) == sorted(REPLICAS)
        assert order == list(Ring(reversed(REPLICAS)).order(key)), "another front door must come to the same"


def test_the_members_have_about_the_same_share():
    shares = Counter(first(Ring(REPLICAS), key) for key in KEYS)
    assert max(shares.values()) < 1.15 * len(KEYS) / len(REPLICAS)


def test_a_member_that_leaves_moves_only_its_own_keys():
    before, after = Ring(REPLICAS), Ring(REPLICAS[:2])
    for key in KEYS:
        order = list(before.order(key))
        expected = order[1] if order[0] == REPLICAS[2] else order[0]
        assert first(after, key) == expected


def test_a_member_that_comes_takes_keys_and_moves_none_between_the_others():
    before, after = Ring(REPLICAS[:2]), Ring(REPLICAS)
    moved = [key for key in KEYS if first(before, key) != first(after, key)]
    assert {first(after, key) for key in moved} == {REPLICAS[2]}
    assert 0.25 < len(moved) / len(KEYS) < 0.42


def test_a_key_leaves_its_member_only_while_that_has_too_much():
    ring, key = Ring(REPLICAS), KEYS[0]
    home, second, third = ring.order(key)
    assert ring.choose(key, {home: 0, second: 0, third: 0}) == home
    # Of 13 requests with this one the mean is 4.3, and 5.4 rounded up is what one may have.
    assert ring.choose(key, {home: 5, second: 4, third: 3}) == home
    assert ring.choose(key, {home: 6, second: 3, third: 3}) == second
    assert ring.choose(key, {home: 6, second: 6, third: 0}) == third
    assert ring.choose(key, {second: 9, third: 9}) == second, "who is not to be chosen does not count"


def test_there_is_always_one_that_may_take_one_more():
    for loads in ([0], [7], [3, 3], [100, 0, 0], [1] * 50):
        assert min(loads) + 1 <= ceiling(loads)


# The key of a beginning

LONG = "You are the assistant of a bank. " * 50
SHORT = "Be brief."
QUESTION = "Which documents do I need to open an account for a company that was founded abroad? " * 3


def chat(*messages: tuple[str, Any]) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": role, "content": content} for role, content in messages]}


def test_all_who_share_a_long_system_prompt_have_one_key():
    keys = {key_of(chat(("system", LONG), ("user", question))) for question in ("a", "b", QUESTION)}
    assert len(keys) == 1
    assert None not in keys
    assert key_of(chat(("system", LONG.upper()), ("user", "a"))) not in keys


def test_a_conversation_keeps_its_key():
    turns = [("system", SHORT), ("user", QUESTION), ("assistant", "An extract."), ("user", "And then?"), ("assistant", "A stamp.")]
    keys = {key_of(chat(*turns[:length])) for length in (2, 4, 5)}
    assert len(keys) == 1
    assert None not in keys
    assert key_of(chat(("system", SHORT), ("user", QUESTION + "x" * 300))) not in keys


def test_a_conversation_that_begins_with_hi_has_a_key_from_its_second_turn_on():
    turns = [("user", "Hi"), ("assistant", QUESTION), ("user", "Yes"), ("assistant", "Well."), ("user", "Go on")]
    assert key_of(chat(*turns[:1])) is None
    assert key_of(chat(*turns[:3])) == key_of(chat(*turns)) is not None


def test_a_long_text_is_known_by_its_beginning():
    instructions = "Summarize the document below in three sentences. " * 30
    assert len(instructions) > MOST
    assert key_of(chat(("user", instructions + "one"))) == key_of(chat(("user", instructions + "two")))
    assert key_of({"prompt": instructions + "one"}) == key_of({"prompt": instructions + "two"}) is not None


def test_the_role_and_the_parts_of_a_text_count():
    assert key_of(chat(("user", LONG))) != key_of(chat(("system", LONG)))
    parts = [{"type": "text", "text": LONG[:100]}, {"type": "text", "text": LONG[100:]}]
    assert key_of(chat(("user", parts))) == key_of(chat(("user", LONG)))


@pytest.mark.parametrize(
    "body",
    [
        None, [], {}, chat(), chat(("user", "x" * (LEAST - 20))), {"messages": None}, {"messages": 5}, {"messages": [None, 3]},
        {"prompt": "x" * (LEAST - 1)}, {"prompt": ""}, {"prompt": [1, 2]}, {"prompt": {"a": 1}}, chat(("user", None)),
    ],
)  # fmt: skip
def test_what_is_short_or_wrong_has_no_key(body: Any):
    assert key_of(body) is None


def test_token_ids_and_odd_letters_have_one():
    assert key_of({"prompt": list(range(2000))}) == key_of({"prompt": [*range(2000), 7]}) is not None
    assert key_of({"prompt": "\ud800" * LEAST}) is not None


# The counts


def test_without_a_key_the_least_loaded_is_taken():
    routes = router()
    turns = [routes.take("m", REPLICAS, None) for _ in range(6)]
    assert Counter(turn.address for turn in turns if turn) == dict.fromkeys(REPLICAS, 2)
    assert turns[4]
    turns[4].release()
    turns[4].release()
    again = routes.take("m", REPLICAS, None)
    assert again
    assert again.address == turns[4].address
    assert routes.in_all == 6


def test_a_turn_is_over_with_its_context():
    routes = router()
    turn = routes.take("m", REPLICAS, b"key")
    assert turn
    with turn:
        assert routes.load(turn.address) == 1
    assert routes.in_all == 0


def test_one_that_failed_this_request_is_not_asked_again():
    routes, failed = router(), set[str]()
    for _ in REPLICAS:
        turn = routes.take("m", REPLICAS, b"key", failed)
        assert turn
        failed.add(turn.address)
    assert failed == set(REPLICAS)
    assert routes.take("m", REPLICAS, b"key", failed) is None
    assert routes.take("m", (), None) is None


def test_one_that_cannot_be_reached_rests():
    """It has the least to do, and would be asked first for ever."""
    clock = Clock()
    routes = router(clock)
    routes.unreachable(REPLICAS[0])
    for key in (None, *KEYS[:30]):
        with routes.take("m", REPLICAS, key) as turn:  # type: ignore[union-attr]
            assert turn.address != REPLICAS[0]
    with routes.take("m", REPLICAS[:1], None) as turn:  # type: ignore[union-attr]
        assert turn.address == REPLICAS[0], "there is no other"
    clock.now += REST + 0.1
    assert {routes.take("m", REPLICAS, None).address for _ in REPLICAS} == set(REPLICAS)  # type: ignore[union-attr]


def test_a_replica_has_no_more_than_it_may():
    routes = router(per_replica=2)
    turns = [routes.take("m", REPLICAS, b"one key for all") for _ in range(6)]
    assert all(turns)
    with pytest.raises(Full, match="each replica of m has 2 requests"):
        routes.take("m", REPLICAS, None)
    # Another model's replicas have nothing to do with it.
    assert routes.take("other", ["http://10.0.1.1:8000"], None)


def test_a_front_door_has_no_more_than_it_may_with_those_that_are_held():
    routes = router(in_all=3, held=2)
    routes.take("m", REPLICAS, None)
    with routes.held("n"), routes.held("n"):
        with pytest.raises(Full, match="has 3 requests under way"):
            routes.admit()
        with pytest.raises(Crowded, match="2 requests wait for n already"), routes.held("n"):
            pass
        with routes.held("o"):
            pass
    routes.admit()


# All together


@dataclass
class Run:
    """Streams that end and begin; what was seen of them."""

    router: Router
    requests: int = 0
    kept: int = 0
    met: int = 0
    total: Counter[str] = field(default_factory=Counter)
    homes: dict[bytes, str] = field(default_factory=dict)
    seen: set[tuple[bytes, str]] = field(default_factory=set)

    def stream(self, replicas: tuple[str, ...], streams: int, prefixes: int, requests: int, seed: int) -> None:
        """Each of `requests` begins with one of `prefixes`; `streams` of them are under way at once, for as long as chance has it."""
        dice, now, open_ones = random.Random(seed), 0.0, list[tuple[float, int, Turn]]()
        for number in range(requests):
            if len(open_ones) == streams:
                now, _, over = heapq.heappop(open_ones)
                over.release()
            key = f"prefix {dice.randrange(prefixes)}".encode()
            turn = self.router.take("m", replicas, key)
            assert turn
            loads = [self.router.load(address) - (address == turn.address) for address in replicas]
            assert self.router.load(turn.address) <= ceiling(loads)
            self.total[turn.address] += 1
            if key in self.homes:
                self.requests += 1
                self.kept += self.homes[key] == turn.address
                self.met += (key, turn.address) in self.seen
            self.homes.setdefault(key, turn.address)
            self.seen.add((key, turn.address))
            heapq.heappush(open_ones, (now + dice.expovariate(1), number, turn))
        for _, _, turn in open_ones:
            turn.release()


@pytest.mark.parametrize(("prefixes", "streams"), [(5, 64), (20, 16), (60, 64), (200, 64), (600, 64), (2000, 64)])
def test_nine_of_ten_reach_a_replica_that_saw_their_prefix_and_none_has_too_much(prefixes: int, streams: int):
    """Where a replica's prefixes are more than it may take, it is always the same others that help, and so have seen them too."""
    run = Run(router())
    run.stream(REPLICAS, streams, prefixes, requests=10_000, seed=7)
    assert run.met / run.requests >= 0.9
    assert max(run.total.values()) <= 1.25 * run.total.total() / len(REPLICAS)
    assert run.router.in_all == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nine_of_ten_of_many_prefixes_reach_the_replica_that_saw_theirs_first(seed: int):
    run = Run(router())
    run.stream(REPLICAS, streams=64, prefixes=600, requests=20_000, seed=seed)
    assert run.kept / run.requests >= 0.9


def test_a_replica_that_leaves_in_the_middle_takes_no_others_prefix_along():
    run = Run(router())
    run.stream(REPLICAS, streams=64, prefixes=200, requests=10_000, seed=1)
    gone = REPLICAS[2]
    stay = {key: home for key, home in run.homes.items() if home != gone}
    after = Run(run.router, homes=dict(stay))
    after.stream(REPLICAS[:2], streams=64, prefixes=200, requests=10_000, seed=2)
    assert gone not in after.total
    assert after.kept / after.requests >= 0.9
