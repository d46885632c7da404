"""The operator as its own process, and waiting for what it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from cluster import ports

OPERATOR = Path(__file__).parents[2] / "operator"
SECONDS = 20.0
T = TypeVar("T")


class Operator:
    """One process for the length of a with block. It watches `namespace` only and has its lease there, so that tests do not meet.

    `silence` is after how many seconds without a word it takes a watch for dead, which is more than a minute otherwise; `resync` after how
    many it compares what it knows with the server, which is ten minutes otherwise; `quiet` after how many the last replica may go, which is
    15 otherwise.
    """

    def __init__(
        self,
        kubeconfig: Path,
        namespace: str,
        log: Path,
        identity: str = "operator",
        silence: float | None = None,
        resync: float | None = None,
        quiet: float | None = None,
        **environment: str,
    ) -> None:
        self.log = log
        self.port = ports.free(1)[0]
        self._command = [sys.executable, "-m", "jitney_operator"]
        faster = {"handlers.SILENCE": silence, "pruning.PERIOD": resync, "autoscale.QUIET": quiet}
        settings = "".join(f"{name} = {value}; " for name, value in faster.items() if value is not None)
        if settings:
            rooms = "__main__, autoscale, handlers, pruning"
            self._command = [sys.executable, "-c", f"from jitney_operator import {rooms}; {settings}__main__.main()"]
        self._environment = {
            "PYTHONPATH": str(OPERATOR),
            "KUBECONFIG": str(kubeconfig),
            "JITNEY_HTTP_PORT": str(self.port),
            "JITNEY_NAMESPACE": namespace,
            "JITNEY_POD_NAME": identity,
            "JITNEY_WATCH_NAMESPACES": namespace,
            **environment,
        }

    def __enter__(self) -> Operator:
        with self.log.open("a") as file:
            self.process = subprocess.Popen(self._command, env=os.environ | self._environment, stdout=file, stderr=file)
        return self

    def __exit__(self, *_: object) -> None:
        """Ends with 0 on SIGTERM; one that was killed before is only collected."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            assert self.process.wait(20) == 0, self.log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def until(self, look: Callable[[], T], seconds: float = SECONDS) -> T:
        """What `look` gives once it is true; the operator's log when it never is."""
        end = time.monotonic() + seconds
        while True:
            try:
                seen = look()
            except RuntimeError:
                # kubectl: what is asked for is not there yet.
                seen = None
            if seen:
                return seen
            assert time.monotonic() < end, f"not within {seconds:.0f} s; the operator said:\n{self.log.read_text()[-3000:]}"
            time.sleep(0.1)
