"""The servers that are up: each started once for the rows that use it, and held still while another one is asked."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.engine.environments import NotInstalled
from bench.engine.load import Side
from bench.engine.processes import Refused
from bench.engine.progress import say
from bench.engine.servers import Server, serving

# Of a batch and its window, where a row does not want others.
ROWS, WINDOW = 16, 2048


class Fleet:
    """`refused` has the words of each server that did not start, by its name; none is tried twice."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._up: dict[tuple[Server, int, int], tuple[Side, ExitStack]] = {}
        self.refused: dict[str, str] = {}

    def sides(self, servers: Sequence[Server], rows: int = ROWS, window: int = WINDOW) -> list[Side]:
        """Those of `servers` that start, held. All others are ended: there is not memory for everybody."""
        wanted = [(server, rows, window) for server in servers]
        for key in [key for key in self._up if key not in wanted]:
            self._up.pop(key)[1].close()
        return [side for key in wanted if (side := self._side(*key)) is not None]

    def _side(self, server: Server, rows: int, window: int) -> Side | None:
        key = (server, rows, window)
        if key in self._up:
            return self._up[key][0]
        if server.name in self.refused:
            return None
        stack = ExitStack()
        try:
            process = stack.enter_context(serving(server, rows, window, self._scratch))
        except (Refused, NotInstalled) as error:
            say(f"  {server.name}: {error}")
            self.refused[server.name] = str(error)
            return None
        process.hold()
        self._up[key] = (Side(server, process), stack)
        return self._up[key][0]

    def close(self) -> None:
        for key in list(self._up):
            self._up.pop(key)[1].close()


@contextmanager
def awake(side: Side) -> Iterator[Side]:
    """The only server that runs. Whoever asks it does not stop meanwhile to look through what earlier rows have left on its heap: that
    would be in somebody's gap."""
    gc.collect()
    gc.disable()
    side.process.go_on()
    try:
        yield side
    finally:
        side.process.hold()
        gc.enable()
