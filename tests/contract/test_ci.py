"""What CI runs is the whole of it, whatever the shell around it has exported."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

RUN = Path(__file__).parents[2] / ".ci" / "run"


def test_what_is_exported_excuses_nothing(tmp_path: Path):
    """A row that another cluster cannot show is no fault there, and neither is one that nobody asked for."""
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\necho "told: $*, cluster ${JITNEY_CLUSTER:-none}, options ${PYTEST_ADDOPTS:-none}"\n')
    make.chmod(0o755)
    around = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "JITNEY_CLUSTER": "current", "PYTEST_ADDOPTS": "-k nothing"}
    done = subprocess.run([RUN], env=os.environ | around, capture_output=True, text=True, check=True)
    told = [line for line in done.stdout.splitlines() if line.startswith("told: ")]
    assert "told: e2e, cluster local, options none" in told
    assert all(line.endswith(", cluster local, options none") for line in told)
