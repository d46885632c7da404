"""What was launched, on disk: the same models come back after a restart."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from jitney_gateway.launch import Launch

VERSION = 1


class State:
    """One file of `folder`, written whole: a crash leaves the old one or the new one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "models.json"

    def read(self) -> dict[str, Launch]:
        """By uid; ValueError with the file's name where it is not ours."""
        if not self._path.is_file():
            return {}
        try:
            document = json.loads(self._path.read_text())
            if document["version"] != VERSION:
                raise ValueError(f"version {document['version']}")
            return {uid: Launch(**values) for uid, values in document["models"].items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self._path} cannot be read ({error}): move it away to begin anew") from error

    def write(self, launches: dict[str, Launch]) -> None:
        document = {"version": VERSION, "models": {uid: asdict(launch) for uid, launch in launches.items()}}
        unfinished = self._path.with_suffix(".new")
        # Environment variables of a model may hold tokens.
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._path)
