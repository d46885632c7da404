"""`python -m bench.engine`: measures what is not measured yet, writes bench/RESULTS.md, and ends with 1 when a must is missed."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench.engine import results
from bench.engine.bench import ALONE, LONG, TOGETHER, Bench, Found
from bench.engine.fleet import Fleet
from bench.engine.progress import say
from bench.engine.results import Results
from bench.engine.rows import curves, drawn, floor, latency, policy, prefix, process, quality, streaming, throughput, trial
from bench.engine.servers import PEERS

Row = Callable[[Bench], Found]
# By the names that --rows takes, in the order in which they are measured: rows that use the same servers stand together.
ROWS: Mapping[str, Row] = {
    "settings": trial.trial,
    "1": throughput.together,
    "2": throughput.alone,
    "3": throughput.long,
    "4": prefix.shared,
    "5": latency.newcomers,
    "6": latency.long_newcomer,
    "7": floor.floor,
    "8": streaming.streaming,
    "9": process.start,
    "10": process.memory,
    "11": policy.policy,
    "D": drawn.drawn,
    "Q": quality.quality,
    "throughput": curves.throughput,
    "context": curves.step_time,
}
# Rows that are measured beside peers, each at its best setting for the work.
BESIDE_PEERS = {"1": TOGETHER, "2": ALONE, "3": LONG, "throughput": TOGETHER, "context": LONG}
QUICK, QUICK_PEERS, QUICK_ROUNDS = ("1", "2"), ("llamacpp",), 2
ROUNDS = 3


def main() -> None:
    asked = _parse()
    signal.signal(signal.SIGTERM, _stop)
    rows = asked.rows or (QUICK if asked.quick else tuple(ROWS))
    peers = asked.peers if asked.peers is not None else QUICK_PEERS if asked.quick else tuple(PEERS)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jitney-bench-") as scratch:
        fleet = Fleet(Path(scratch))
        bench = Bench(fleet, Path(scratch), peers, asked.rounds or (QUICK_ROUNDS if asked.quick else ROUNDS), asked.quick)
        try:
            found = _quick(bench, rows) if asked.quick else _whole(bench, rows, again=bool(asked.rows), fresh=asked.fresh)
        finally:
            fleet.close()
    checks = [check for one in found.values() for check in one.checks]
    print(f"\n{results.checks_table(checks)}\n\n{time.monotonic() - begun:.0f} s")
    if missed := [f"row {check.row}: {check.what}" for check in checks if check.missed]:
        sys.exit(f"error: missed: {'; '.join(missed)}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.engine", description="The engine's speed beside every CPU peer, on this machine.")
    add = parser.add_argument
    add("--rows", type=_names(ROWS), help=f"measure these anew, of {', '.join(ROWS)} (default: all that no run has measured yet)")
    add("--peers", type=_names(PEERS), help=f"beside these only, of {', '.join(PEERS)}; none: beside nobody (default: all)")
    add("--rounds", type=int, help=f"counted rounds of each server (default {ROUNDS})")
    add("--quick", action="store_true", help="rows 1 and 2 beside one peer, a few minutes; nothing is written")
    add("--fresh", action="store_true", help="forget what earlier runs have measured")
    return parser.parse_args()


def _names(known: Mapping[str, object]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        names = tuple(name for name in text.split(",") if name and name != "none")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
        return tuple(name for name in known if name in names)

    return parse


def _stop(number: int, _: FrameType | None) -> NoReturn:
    # A second one would stop the contexts, which end the servers, in the middle.
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _quick(bench: Bench, rows: tuple[str, ...]) -> dict[str, Found]:
    return {row: ROWS[row](bench) for row in rows}


def _whole(bench: Bench, rows: tuple[str, ...], again: bool, fresh: bool) -> dict[str, Found]:
    """Every row that was asked for and those that were measured before. RESULTS.md is written after each."""
    kept = Results.of_cache(fresh)
    if kept.begun_anew:
        say("the machine, the bench or the runtime has changed since the last run: what depends on it is measured anew")
    found = _found(bench, kept)
    for row in rows:
        if again or row not in found:
            say(f"row {row}")
            one = ROWS[row](bench)
            kept.put(row, _beside(bench, row), _rounds(bench, row), one)
            for check in one.checks:
                say(f"  {' '.join(check.cells())}")
        # Other settings may be the best ones now, and what was measured beside the old ones is no part of this.
        found = _found(bench, kept)
        results.write(found, [name for name in ROWS if name not in found], bench.peers, bench.rounds, kept)
    return found


def _found(bench: Bench, kept: Results) -> dict[str, Found]:
    """What is known of rows beside the servers and with the rounds of this run."""
    tried = kept.get("settings", _beside(bench, "settings"), trial.ROUNDS)
    bench.speeds = dict(tried.figures["speeds"]) if tried else {}
    return {row: one for row in ROWS if (one := kept.get(row, _beside(bench, row), _rounds(bench, row))) is not None}


def _rounds(bench: Bench, row: str) -> int:
    return trial.ROUNDS if row == results.OF_THE_PEERS else bench.rounds


def _beside(bench: Bench, row: str) -> list[str]:
    """The peers' servers that a row is measured beside, by their names: settings too."""
    if row == results.OF_THE_PEERS:
        return [server.name for peer in bench.peers for server in PEERS[peer]]
    return [server.name for server in bench.best(BESIDE_PEERS[row])] if row in BESIDE_PEERS else []


if __name__ == "__main__":
    main()
