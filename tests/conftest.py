"""For all tests: machines that lack something, and the sum of all comparisons.

What all comparisons with `generate` of a session found together: added up over the processes that share its tests, printed, judged.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.machine import Machine, bare_machine
from support.verdict import ALLOWED_TIES, TOTAL, Verdict

KEY = "answers compared"
# Files that take a minute and more, and few tests to tell it by: first, so that the processes that share them end together.
LONG = ("tests/runtime/torch/", "tests/contract/test_footprint.py", "tests/test_readme.py", "tests/gateway/", "tests/integration/")


class Sum:
    """In the process that leads others: they hand over what they found when they end."""

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: pytest.Session) -> None:
        if found := getattr(node, "workeroutput", {}).get(KEY):
            TOTAL.add(Verdict(**found))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Sum())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next((place for place, path in enumerate(LONG) if item.nodeid.startswith(path)), len(LONG)))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output[KEY] = dataclasses.asdict(TOTAL)
    elif not TOTAL.rare and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TOTAL.told:
        terminalreporter.section("answers of narrow weights beside float32's")
        for sentence in TOTAL.told:
            terminalreporter.line(sentence)
    if not TOTAL.count:
        return
    terminalreporter.section("answers compared with generate alone")
    terminalreporter.line(str(TOTAL), red=bool(TOTAL.wrong))
    if not TOTAL.rare:
        share = f"{TOTAL.ties} of {TOTAL.count} sequences differ at a near-tie, and {ALLOWED_TIES:.1%} may (none of fewer than 1,000)"
        terminalreporter.line(f"FAILED: {share}", red=True)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with bare_machine() as machine:
        yield machine


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for 8 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "small", str(folder)]
    if (mounted := subprocess.run(command, check=False, capture_output=True, text=True)).returncode:
        pytest.skip(f"a full disk needs a small file system, and this machine refuses to mount one: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
