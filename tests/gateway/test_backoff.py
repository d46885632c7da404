"""When a runtime that dies is started again: the decision, and processes that die for real."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from pathlib import Path

import pytest

from jitney_gateway.local import backoff
from jitney_gateway.local.runtime import Runtime
from jitney_gateway.model import READY
from support import standin

# It writes down when it was started, on the clock that all processes of the machine share, and dies at once while the file ILL is there.
DIES = """
import os, time
with open(os.environ["STARTS"], "a") as starts:
    starts.write(f"{time.monotonic()}\\n")
if os.path.exists(os.environ["ILL"]):
    raise SystemExit(1)
"""


def pauses(*served: float) -> list[float]:
    """After runs that were ready for so many seconds, one after the other."""
    found = [0.0]
    for seconds in served:
        found.append(backoff.pause(found[-1], seconds))
    return found[1:]


def test_pauses_grow_to_the_longest():
    assert pauses(*[0] * 8) == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_run_that_served_for_long_begins_anew():
    assert pauses(0, 0, 0, backoff.LASTING, 0) == [1, 2, 4, 1, 2]
    assert pauses(*[0] * 7, 3600, 0)[-3:] == [30, 1, 2]


def test_a_run_that_served_for_less_does_not():
    assert pauses(0, 0, backoff.LASTING - 0.1, 0) == [1, 2, 4, 8]


async def reached(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not look():
            await asyncio.sleep(0.02)


@pytest.fixture
async def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runtime]:
    # No process dies within LASTING: only one that was ready begins anew.
    for name, seconds in {"FIRST": 0.1, "LONGEST": 0.8, "LASTING": 0.01}.items():
        monkeypatch.setattr(backoff, name, seconds)
    envs = standin.install(tmp_path, standin.READY) | {"STARTS": str(tmp_path / "starts"), "ILL": str(tmp_path / "ill")}
    (tmp_path / "jitney_runtime.py").write_text(DIES + standin.PROGRAM)
    runtime = Runtime("ill-0", (), envs, tmp_path, lambda: None)
    yield runtime
    await runtime.stop(10)


async def test_one_that_dies_again_and_again_is_started_slower_each_time_until_it_has_served(
    runtime: Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    def told() -> list[float]:
        return [float(record.getMessage().split("started again in ")[1].removesuffix(" s")) for record in caplog.records]

    ill = tmp_path / "ill"
    ill.touch()
    with caplog.at_level(logging.WARNING, "jitney_gateway.local.runtime"):
        runtime.start()
        await reached(lambda: len(told()) == 5)
        assert told() == [0.1, 0.2, 0.4, 0.8, 0.8]
        ill.unlink()
        await reached(lambda: runtime.status == READY)
        starts = [float(line) for line in (tmp_path / "starts").read_text().split()]
        # A busy machine makes them longer and never shorter.
        assert [later - earlier >= pause for (earlier, later), pause in zip(pairwise(starts), told(), strict=True)] == [True] * 5
        await asyncio.sleep(backoff.LASTING)
        assert runtime.pid
        os.kill(runtime.pid, signal.SIGKILL)
        await reached(lambda: len(told()) == 6)
        assert told()[-1] == 0.1
