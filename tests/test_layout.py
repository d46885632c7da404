"""Rules about the shape of the repository that no linter knows."""

from __future__ import annotations

import re
import shutil
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
    """Every target of the makefiles, but those that only others need."""
    internal = {"go", "control-plane", "prerequisites"}
    text = "\n".join((ROOT / name).read_text() for name in ("Makefile", "e2e/targets.mk"))
    verbs = set(re.findall(r"^([a-z][a-z0-9-]*):", text, re.MULTILINE)) - internal
    assert {"setup", "check", "test", "test-long", "e2e", "demo", "demo-down", "bench", "model", "kubeconfig"} <= verbs
    shown = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert not {verb for verb in verbs if f"  {verb} " not in shown}


def test_the_cluster_suite_is_run_whole():
    """Called in another way, e2e/tests/conftest.py would not ask for the situations that nobody came to."""
    shown = subprocess.run(["make", "-n", "e2e"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert re.search(r"pytest -v -s e2e/tests$", shown, re.MULTILINE)


def test_a_suite_that_ran_no_test_has_not_passed(tmp_path: Path):
    """With our conftest.py and a test that is skipped, as a machine without what the suite needs would have it."""
    shutil.copy(ROOT / "conftest.py", tmp_path)
    test = tmp_path / "test_it.py"
    for body, expected in (("import pytest\npytest.skip()", 5), ("", 0)):
        test.write_text("def test_it():\n    " + body.replace("\n", "\n    ") + ("" if body else "assert True") + "\n")
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", tmp_path, tmp_path], check=False)
        assert done.returncode == expected
