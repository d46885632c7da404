"""For every suite: one that ran no test has not passed, and programs that it starts can be interrupted."""

from __future__ import annotations

import os
import signal

import pytest

# Before torch is loaded: its threads would spin after each product, while the tests beside these want the same two cores.
os.environ.setdefault("GOMP_SPINCOUNT", "0")


def pytest_configure() -> None:
    """A shell's background job ignores Ctrl-C, and so would every program that it starts; some tests press it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Selecting nothing ends with 5 in pytest already; skipping everything would end with 0."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter is not None and not session.config.option.collectonly and not reporter.stats.get("passed"):
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
