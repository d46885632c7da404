"""A model on its way to ready, as a bar in a terminal and as lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from jitney_gateway.cli.client import Client, Failed
from jitney_gateway.cli.output import err, say
from jitney_gateway.failure import Failure
from jitney_gateway.model import idle

PERIOD = 0.25


class Unservable(Failed):
    """Waiting longer would not help; the reason."""


def wait(client: Client, uid: str, timeout: float | None = None) -> None:
    """Until it is ready; Unservable where it cannot be or its start keeps failing, Failed where it is not after `timeout` seconds or no
    replica of it is wanted any more."""
    failure = Failure()
    end = time.monotonic() + timeout if timeout else None
    with _Shown() as shown:
        while True:
            model = client.describe(uid)
            if model["status"] == "READY":
                return
            if model["status"] == "ERROR":
                raise Unservable(model["message"])
            if word := idle(model["status"], model["message"]):
                # Whoever saw to that wants to keep it.
                raise Failed(f"{uid} is {word} and is not waited for: {model['message']}")
            found = client.progress(uid)
            if reason := failure.lasting(found.get("failing", ""), time.monotonic()):
                raise Unservable(reason)
            words = found.get("message") or found["stage"]
            if end and time.monotonic() > end:
                raise Failed(
                    f"{uid} is not ready after {timeout:.0f} s: {words}. It goes on; `jitney describe -u {uid}` tells how it stands"
                )
            shown.move(found["progress"], words)
            time.sleep(PERIOD)


class _Shown:
    """On standard error."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self._task = self._bar.add_task("launching", total=1.0)
        self._stage = ""

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.__exit__(kind, error, trace)

    def move(self, share: float, words: Any) -> None:
        self._bar.update(self._task, completed=share, description=str(words))
        # Figures move; a line is for what is new.
        stage = str(words).partition(" ")[0]
        if not err.is_terminal and stage != self._stage:
            say(str(words))
        self._stage = stage
