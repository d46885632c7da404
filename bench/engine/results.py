"""What was found, row by row: kept in a file, so that a run goes on where the last one broke off, and written as bench/RESULTS.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.engine import charts, machine
from bench.engine.bench import Found
from bench.engine.checks import Check
from bench.engine.environments import peers_folder
from bench.engine.servers import OURS

FOLDER = Path(__file__).resolve().parents[1]
# What was tried of a row that misses, and where its time goes: by hand, behind the tables.
TRIED = FOLDER / "TRIED.md"
HEADS = ("row", "what", "found", "must", "aim", "", "figures")


# The row that is about the peers alone: another runtime is the same to it.
OF_THE_PEERS = "settings"


class Results:
    """`kept` by the row's name. What was found on another machine or of another runtime is no part of this run."""

    def __init__(self, file: Path, fresh: bool) -> None:
        self._file = file
        kept: dict[str, Any] = json.loads(file.read_text())["rows"] if file.is_file() and not fresh else {}
        self._rows: dict[str, dict[str, Any]] = {row: one for row, one in kept.items() if one.get("subject") == _subject(row)}
        self.begun_anew = len(self._rows) < len(kept)

    @classmethod
    def of_cache(cls, fresh: bool) -> Results:
        return cls(peers_folder() / "results.json", fresh)

    def get(self, row: str, beside: Sequence[str], rounds: int) -> Found | None:
        """What was found of it beside these servers, in so many rounds."""
        kept = self._rows.get(row)
        if kept is None or kept["beside"] != list(beside) or kept["rounds"] != rounds:
            return None
        return Found([Check(**check) for check in kept["checks"]], kept["figures"])

    def put(self, row: str, beside: Sequence[str], rounds: int, found: Found) -> None:
        checks = [asdict(check) for check in found.checks]
        date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
        one = {"subject": _subject(row), "beside": list(beside), "rounds": rounds, "checks": checks, "figures": found.figures, "date": date}
        self._rows[row] = one
        self._file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._file.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"rows": self._rows}, indent=1))
        unfinished.rename(self._file)

    def dates(self, rows: Iterable[str]) -> list[str]:
        return sorted(self._rows[row]["date"] for row in rows)


def _subject(row: str) -> str:
    return machine.subject(runtime=row != OF_THE_PEERS)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """GitHub's Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/').replace(chr(10), ' ') for cell in line)} |" for line in lines)


def checks_table(checks: Sequence[Check]) -> str:
    return table(HEADS, [check.cells() for check in checks])


def write(found: dict[str, Found], missing: Sequence[str], peers: tuple[str, ...], rounds: int, kept: Results) -> None:
    """RESULTS.md and the charts. `missing` are rows that were not measured."""
    dates = kept.dates(found)
    checks = [check for one in found.values() for check in one.checks]
    missed = [f"- row {check.row}: {check.what}: {check.cells()[2]}, must be {check.cells()[3]}" for check in checks if check.missed]
    missed += [f"- row {row}: not measured" for row in missing]
    parts = [
        "# The engine beside its peers",
        f"Written by `make bench`. SmolLM2-135M on {machine.described()}. {dates[0]} to {dates[-1]} UTC." if dates else "",
        f"{machine.versions(peers)}.",
        _how(OF_THE_PEERS in found, rounds),
        checks_table(checks),
        "## Missed" if missed else "Every must is kept.",
        "\n".join(missed),
        *_speeds(found),
        *_trial(found.get(OF_THE_PEERS)),
        *_floors(found.get("7")),
        *_charts(found),
        TRIED.read_text().strip() if TRIED.is_file() else "",
    ]
    (FOLDER / "RESULTS.md").write_text("\n\n".join(part for part in parts if part) + "\n")


def _how(tried: bool, rounds: int) -> str:
    settings = "at its best setting for the work, by the trial below" if tried else "at the first of its settings: none was tried"
    return f"Every peer is {settings}; servers take turns, and ratios are medians over the {rounds} counted rounds."


def _speeds(found: dict[str, Found]) -> list[str]:
    titles = {"1": "16 chats, 64 requests", "2": "one chat", "3": "16 prompts of 1,000 tokens"}
    parts = []
    for row, title in titles.items():
        figures = found[row].figures if row in found else {}
        if not figures:
            continue
        rows = [(name, f"{one['speed']:.1f}", f"{one['first']:.2f} s") for name, one in _by_speed(figures["servers"])]
        rows += [(name, "-", words) for name, words in figures["failed"].items()]
        parts += [f"## {title}", table(("server", "tokens/s", "first token (median)"), rows)]
    return parts


def _by_speed(servers: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(servers.items(), key=lambda pair: -pair[1]["speed"])


def _trial(found: Found | None) -> list[str]:
    if found is None:
        return []
    speeds, failed = found.figures["speeds"], found.figures["failed"]
    names = dict.fromkeys(name for work in speeds.values() for name in work)
    rows = [(name, *(f"{work[name]:.1f}" if name in work else "-" for work in speeds.values())) for name in names]
    words = [f"{name}: {said}" for name, said in failed.items()]
    return ["## The settings of the peers, each server alone, tokens/s", table(("server", *speeds), rows), *words]


def _floors(found: Found | None) -> list[str]:
    if found is None or not found.figures:
        return []
    rows = []
    for setting, one in found.figures.items():
        floors = [f"{1000 * one['floor'][rows_]:.1f}" for rows_ in ("1", "16", "64")]
        rows.append((setting, *floors, *(f"{1000 * seconds:.1f}" for seconds in one["step"].values())))
    heads = ("ours", "floor of 1 row", "16 rows", "64 rows", "step of 16 at context 110", "at 1,000")
    return ["## All linear layers alone, and a decode step, in ms", table(heads, rows)]


def _charts(found: dict[str, Found]) -> list[str]:
    made = []
    for row, title, across, up, doubling in (
        ("throughput", "Throughput over concurrent chats", "concurrent chats", "tokens/s", True),
        ("context", "Time of a step of 16 over the length of the context", "tokens of context", "ms", False),
    ):
        points = found[row].figures["points"] if row in found else {}
        if not points:
            continue
        series = {name: {float(place): value for place, value in line.items()} for name, line in points.items()}
        folder = FOLDER / "charts"
        folder.mkdir(exist_ok=True)
        (folder / f"{row}.svg").write_text(charts.lines(title, across, up, series, _ours, doubling))
        places = sorted({place for line in series.values() for place in line})
        rows = [(name, *(f"{line[place]:.1f}" if place in line else "-" for place in places)) for name, line in series.items()]
        made += [f"## {title}", f"![{title}](charts/{row}.svg)", table((f"{up} at", *(f"{place:g}" for place in places)), rows)]
        made += [f"{name} has no more points: {words}" for name, words in found[row].figures["failed"].items()]
    return made


def _ours(name: str) -> bool:
    return name.startswith(OURS)
