"""The file of keys, read again when it changes. A file that cannot be taken changes nothing but the log and a metric."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from jitney_gateway.server.keys import Key, Keys, KeysError

logger = logging.getLogger(__name__)

# A Secret that is mounted is exchanged by the kubelet within a minute or so; what a person writes shall count at once.
PERIOD = 1.0
Mark = tuple[int, int, int]


class Keyring:
    """`current` is whether the keys are those of the file as it is now."""

    def __init__(self, path: Path) -> None:
        """KeysError where the file cannot be taken: without keys nobody shall find the door open."""
        self._path = path
        self._mark = self._look()
        self.keys = self._read()
        self.current, self.failures = True, 0

    def find(self, secret: str) -> Key | None:
        return self.keys.find(secret)

    async def keep(self) -> None:
        """Follows the file until it is cancelled."""
        while True:
            await asyncio.sleep(PERIOD)
            try:
                self.refresh()
            except Exception:
                # Whatever it is: keys that are taken away later must not stay in force for it.
                self._failed()
                logger.exception("%s could not be looked at; the keys read before stay in force", self._path)

    def refresh(self) -> None:
        """Read it if it is another one than before. A read that meets a file half-written fails, and the next look finds the whole."""
        mark = self._look()
        if mark == self._mark:
            return
        self._mark = mark
        try:
            self.keys = self._read()
        except KeysError as error:
            self._failed()
            logger.error("%s; the keys read before stay in force", error)
        else:
            self.current = True
            logger.info("%s was read again: %d keys", self._path, len(self.keys.entries))

    def _failed(self) -> None:
        self.current = False
        self.failures += 1

    def _look(self) -> Mark | None:
        """Of the file that a link leads to: a mounted Secret is exchanged by moving a link."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> Keys:
        try:
            return Keys.read(self._path.read_text())
        except (OSError, ValueError) as error:
            raise KeysError(f"the keys in {self._path} cannot be read: {error}") from error
        except KeysError as error:
            raise KeysError(f"the keys in {self._path}: {error}") from error
