"""What the run of a whole suite must have seen: a row for each situation, kept by a test that passed, and nothing wrong with any row."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import pytest


class Row(Protocol):
    @property
    def situation(self) -> str: ...

    @property
    def wrong(self) -> str:
        """Why the run fails although the test passed; empty where it need not."""
        ...


R = TypeVar("R", bound=Row)


class Gate(Generic[R]):
    """A plugin of pytest for one table. A run of less than `folder` may lack rows, but those that it has are judged.

    `needed`: situations; `elsewhere`: those of them that only another kind of cluster can show, which the table says.
    """

    def __init__(
        self, title: str, folder: Path, table: Callable[[list[R]], str], needed: frozenset[str], elsewhere: frozenset[str] = frozenset()
    ) -> None:
        self._title, self._folder, self._table, self._needed, self._elsewhere = title, folder, table, needed, elsewhere
        self._of_test = pytest.StashKey[list[R]]()
        self._kept: list[R] = []

    def rows(self, test: pytest.Item) -> list[R]:
        """Where a test puts what it saw."""
        return test.stash.setdefault(self._of_test, [])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        # It counts once the test has passed, and was expected to.
        if report.when == "call" and report.passed and not hasattr(report, "wasxfail"):
            self._kept += self.rows(item)
        return report

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        faults, elsewhere = self._faults(config), self._elsewhere & self._unseen(config)
        if not (self._kept or faults or elsewhere):
            return
        terminalreporter.section(self._title)
        terminalreporter.write_line(self._table(self._kept))
        for situation in sorted(elsewhere):
            terminalreporter.write_line(f"not on this cluster: {situation}")
        for fault in faults:
            terminalreporter.write_line(fault, red=True)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and self._faults(session.config):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _faults(self, config: pytest.Config) -> list[str]:
        missing = self._unseen(config) - self._elsewhere
        return [*(row.wrong for row in self._kept if row.wrong), *(f"NOT SEEN: {situation}" for situation in sorted(missing))]

    def _unseen(self, config: pytest.Config) -> frozenset[str]:
        """Nothing where only a part was asked for. A test that is gone, skipped or expected to fail has seen nothing."""
        asked = [config.invocation_params.dir / argument for argument in config.args]
        whole = [path.resolve() for path in asked] == [self._folder.resolve()] and not config.option.keyword
        return self._needed - {row.situation for row in self._kept} if whole and not config.option.collectonly else frozenset()


class NoExcuses:
    """A plugin of pytest for where everything can be shown: a test that is skipped or expected to fail fails the run."""

    def __init__(self) -> None:
        self._excused: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped or hasattr(report, "wasxfail"):
            self._excused.append(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for test in self._excused:
            terminalreporter.write_line(f"EXCUSED: {test}", red=True)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.OK and self._excused:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
