"""What all comparisons with `generate` of a session found together: printed, and judged."""

from __future__ import annotations

import pytest

from support.parity import ALLOWED_TIES, TOTAL


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if not TOTAL.rare and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not TOTAL.count:
        return
    terminalreporter.section("answers compared with generate alone")
    terminalreporter.line(str(TOTAL), red=bool(TOTAL.wrong))
    if not TOTAL.rare:
        share = f"{TOTAL.ties} of {TOTAL.count} sequences differ at a near-tie, and {ALLOWED_TIES:.1%} may (none of fewer than 1,000)"
        terminalreporter.line(f"FAILED: {share}", red=True)
