"""The console script `jitney` as a person's shell runs it: with pipes, or in a terminal of its own."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from select import select

SCRIPT = str(Path(sys.executable).parent / "jitney")
# What the person who runs the tests has set is not asked for here.
NOT_INHERITED = ("JITNEY_ENDPOINT", "XINFERENCE_ENDPOINT", "JITNEY_API_KEY", "XINFERENCE_API_KEY", "COLUMNS")


def surroundings(**environment: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in NOT_INHERITED} | environment


def jitney(*arguments: str, input: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [SCRIPT, *arguments]
    return subprocess.run(command, input=input, capture_output=True, text=True, check=False, timeout=240, env=surroundings(**environment))


def fails(*arguments: str, said: str, code: int = 1, **environment: str) -> None:
    """It ends with `code`, and the reason is on standard error."""
    done = jitney(*arguments, **environment)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert said in done.stderr
    assert "Traceback" not in done.stderr


class Terminal:
    """A program in a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process, self._master = process, master
        self.seen = ""
        self._read = 0

    def until(self, words: str, seconds: float = 120) -> str:
        """What came since the last call, up to `words`."""
        end = time.monotonic() + seconds
        while (found := self.seen.find(words, self._read)) < 0:
            assert self._look(end), f"{words!r} was not seen, but:\n{self.seen[self._read :]}"
        begin, self._read = self._read, found + len(words)
        return self.seen[begin : self._read]

    def ended(self, seconds: float = 60) -> int:
        """The exit code; what it still says is read."""
        end = time.monotonic() + seconds
        while self._look(end):
            pass
        return self.process.wait(max(1, end - time.monotonic()))

    def _look(self, end: float) -> bool:
        if not select([self._master], [], [], max(0, end - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:
            # Nobody has the other end any more.
            return False
        self.seen += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)

    def press(self, key: str, words: str) -> str:
        """The same key until it is heard: Python's readline notices what comes between its prompt and its reading at the next key only."""
        for _ in range(11):
            self.type(key)
            with suppress(AssertionError):
                return self.until(words, 5)
        self.type(key)
        return self.until(words, 5)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())


@contextmanager
def terminal(*arguments: str, **environment: str) -> Iterator[Terminal]:
    master, slave = pty.openpty()
    variables = surroundings(TERM="dumb", **environment) if "TERM" not in environment else surroundings(**environment)
    process = subprocess.Popen([SCRIPT, *arguments], env=variables, preexec_fn=lambda: os.login_tty(slave), pass_fds=[slave])
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)
