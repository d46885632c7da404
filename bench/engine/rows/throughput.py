"""Rows 1 to 3: tokens per second beside every peer at its best setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bench.engine.bench import ALONE, LONG, TOGETHER, Bench, Found
from bench.engine.checks import Check
from bench.engine.machine import cpu_flags
from bench.engine.rounds import Compared, Work, compare
from bench.engine.servers import FLOAT32, INT4, INT8, LLAMACPP, NONE, TRANSFORMERS, VLLM, XINFERENCE, Server

OURS = (NONE, FLOAT32, INT8, INT4)
# Those that a must is about.
QUICK = (NONE, INT8)


def together(bench: Bench) -> Found:
    """Row 1."""
    peers = bench.best(TOGETHER)
    found = _compared(bench, TOGETHER, peers)
    least = 1.5 if "avx512f" in cpu_flags() else 1.2
    asked = "16 chats, 64 requests: "
    checks = [
        *_against("1", f"{asked}none / {VLLM}", found, NONE, _of(VLLM, peers), must=1.0),
        *_against("1", f"{asked}none / {TRANSFORMERS}", found, NONE, _of(TRANSFORMERS, peers), must=4.0),
        *_against("1", f"{asked}none / {XINFERENCE}", found, NONE, _of(XINFERENCE, peers), must=6.0),
        *_against("1", f"{asked}int8 / {LLAMACPP} Q4_1", found, INT8, _of(LLAMACPP, peers), must=least),
        *_against("1", f"{asked}none / the best peer", found, NONE, peers, aim=1.3),
    ]
    return Found(checks, _figures(found))


def alone(bench: Bench) -> Found:
    """Row 2."""
    peers = bench.best(ALONE)
    found = _compared(bench, ALONE, peers)
    checks = [
        *_against("2", f"one chat: none / {VLLM}", found, NONE, _of(VLLM, peers), must=1.0),
        *_against("2", "one chat: int8 / none", found, INT8, [NONE], must=1.3),
        *_against("2", f"one chat: int4 / {LLAMACPP} Q4_1", found, INT4, _of(LLAMACPP, peers), aim=1.0),
    ]
    return Found(checks, _figures(found))


def long(bench: Bench) -> Found:
    """Row 3. Its rounds are long: only peers that the trial saw near the best one."""
    peers = bench.ahead(LONG)
    found = _compared(bench, LONG, peers)
    return Found(_against("3", "16 prompts of 1,000 tokens: none / the best peer", found, NONE, peers, must=1.0, aim=1.3), _figures(found))


def _compared(bench: Bench, work: Work, peers: Sequence[Server]) -> Compared:
    sides = bench.fleet.sides([*(QUICK if bench.quick else OURS), *peers])
    return compare(sides, work, bench.rounds, bench.fleet.refused)


def _of(peer: str, servers: Sequence[Server]) -> list[Server]:
    return [server for server in servers if server.peer == peer]


def _against(
    row: str, what: str, found: Compared, ours: Server, others: Sequence[Server], must: float | None = None, aim: float | None = None
) -> list[Check]:
    """Ours against the fastest of `others`; nothing where nobody asked for them, or for ours."""
    if not others or not (ours.name in found.rounds or ours.name in found.failed):
        return []
    ratios = [(ratio, other) for other in others if (ratio := found.ratio(ours.name, other.name)) is not None]
    # Without one of them nobody knows who is the fastest.
    if note := "; ".join(f"{server.name}: {words}" for server in (ours, *others) if (words := found.failed.get(server.name))):
        return [Check(row, what, None, must=must, aim=aim, note=note)]
    ratio, other = min(ratios, key=lambda pair: pair[0])
    note = f"{found.speed(ours.name):.0f} and {found.speed(other.name):.0f} tokens/s ({other.name})"
    return [Check(row, what, ratio, must=must, aim=aim, note=note)]


def _figures(found: Compared) -> dict[str, Any]:
    servers = {name: {"speed": found.speed(name), "first": found.first(name)} for name in found.rounds}
    return {"servers": servers, "failed": found.failed}
