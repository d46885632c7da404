"""Rules about the shape of the repository that no linter knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_operator_folder_does_not_shadow_the_standard_library():
    assert not (ROOT / "operator" / "__init__.py").exists()
    subprocess.run([sys.executable, "-c", "import operator; operator.itemgetter"], cwd=ROOT, check=True)


def test_the_engine_runs_without_torch():
    code = "import sys; sys.modules['torch'] = None; import jitney_runtime.engine.async_engine, jitney_runtime.server.lifecycle"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_names_every_verb():
    shown = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for verb in ("setup", "check", "fmt", "test", "test-long", "model", "serve", "bench", "binaries"):
        assert f"  {verb} " in shown
