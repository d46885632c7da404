"""One file of JSON, written whole: a crash leaves the old one or the new one."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from jitney_gateway.errors import GatewayError

VERSION = 1
T = TypeVar("T")


class Document:
    """`key` is where what is kept stands in it, beside the version."""

    def __init__(self, path: Path, key: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._key = path, key

    def read(self, understood: Callable[[Any], T], otherwise: T) -> T:
        """What `understood` makes of it, `otherwise` where there is no file; ValueError with the file's name where it is not ours."""
        if not self._path.is_file():
            return otherwise
        try:
            document = json.loads(self._path.read_text())
            if document["version"] != VERSION:
                raise ValueError(f"version {document['version']}")
            return understood(document[self._key])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{self._path} cannot be read ({error}): move it away to begin anew") from error

    def write(self, kept: Any) -> None:
        """GatewayError (507) where the disk does not take it: what was there before stays."""
        unfinished = self._path.with_suffix(".new")
        try:
            self._write(unfinished, {"version": VERSION, self._key: kept})
        except OSError as error:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            words = f"nothing is changed, because {self._path} cannot be written ({error.strerror}): make room there, and try again"
            raise GatewayError(507, words, code="not_written") from error

    def _write(self, unfinished: Path, document: dict[str, Any]) -> None:
        # Environment variables of a model may hold tokens.
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._path)
