"""What was launched, on disk: the same models come back after a restart."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from jitney_gateway.launch import Launch
from jitney_gateway.local.document import Document


class State:
    """One file of `folder`."""

    def __init__(self, folder: Path) -> None:
        self._document = Document(folder / "models.json", "models")

    def read(self) -> dict[str, Launch]:
        """By uid; ValueError with the file's name where it is not ours."""
        return self._document.read(lambda models: {uid: Launch(**values) for uid, values in models.items()}, {})

    def write(self, launches: dict[str, Launch]) -> None:
        self._document.write({uid: asdict(launch) for uid, launch in launches.items()})
