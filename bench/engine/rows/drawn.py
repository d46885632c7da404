"""Row D: chats whose tokens are drawn, as those of a client that says nothing about it are, beside chats that take the best token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bench.engine.bench import TOGETHER, Bench, Found
from bench.engine.checks import Check, median_ratio
from bench.engine.fleet import ROWS, awake
from bench.engine.load import Chat, Failed, Round, answers
from bench.engine.progress import say, telling
from bench.engine.servers import NONE

GREEDY = "the best token"
KINDS: Mapping[str, Mapping[str, float]] = {
    GREEDY: {"temperature": 0},
    "drawn at temperature 1": {"temperature": 1},
    "drawn at 0.7 with top-k 20 and top-p 0.9": {"temperature": 0.7, "top_k": 20, "top_p": 0.9},
    "drawn at 1 with top-p 0.95": {"temperature": 1, "top_p": 0.95},
}


def drawn(bench: Bench) -> Found:
    """Our own server, the kinds in turns."""
    sides = bench.fleet.sides([NONE])
    rounds: dict[str, list[Round]] = {kind: [] for kind in KINDS}
    words = bench.fleet.refused.get(NONE.name, "")
    try:
        for number in range(bench.rounds + 1 if sides else 0):
            for kind, sampling in KINDS.items():
                with telling(f"16 chats, {kind}, {f'round {number}' if number else 'warm-up'}"), awake(sides[0]):
                    one = Round.of(answers(sides[0], _chats(sampling), ROWS))
                say(f"  {one.speed:.1f} tokens/s")
                if number:
                    rounds[kind].append(one)
    except Failed as error:
        words = str(error)
    return Found([_check(kind, rounds, words) for kind in KINDS if kind != GREEDY])


def _chats(sampling: Mapping[str, float]) -> list[Chat]:
    return [replace(chat, sampling=sampling) for chat in TOGETHER.chats(TOGETHER.count)]


def _check(kind: str, rounds: Mapping[str, list[Round]], words: str) -> Check:
    what = f"16 chats, {kind} / {GREEDY}"
    if words:
        return Check("D", what, None, aim=0.9, note=words)
    ours, greedy = ([one.speed for one in rounds[name]] for name in (kind, GREEDY))
    return Check("D", what, median_ratio(ours, greedy), aim=0.9)
