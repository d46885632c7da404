"""`make demo-local` as a person runs it: what it needs and what it leaves."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.machine import Machine, needs_root
from support.models import smollm2_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def shown() -> str:
    """All that a terminal would have shown, in its order. Where the tests run as root, that has none of root's rights here."""
    smollm2_folder()
    program = shutil.which("setpriv")
    powerless = [program, "--bounding-set=-all", "--inh-caps=-all"] if program and os.geteuid() == 0 else []
    # As a person's shell has it: a make inside of make would announce its folders.
    shell = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = [*powerless, "make", "demo-local"]
    done = subprocess.run(
        command, cwd=ROOT, env=shell, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_sixteen_chats_are_answered(shown: str):
    chats = re.findall(r"^ ?(\d+)  .{36} (.{60}) +(\d+) +\d+\.\d\d s +\d+\.\d$", shown, re.MULTILINE)
    assert [int(number) for number, _, _ in chats] == list(range(1, 17))
    assert all(answer.strip() and int(tokens) for _, answer, tokens in chats)
    assert "Paris" in chats[0][1]
    assert re.search(r"16 of 16 chats answered; \d+ tokens in [\d.]+ s = \d+ tokens/s together; first token after [\d.]+ s", shown)
    assert re.search(r"^smollm2 .*READY", shown, re.MULTILINE)


def test_nothing_of_it_is_left(shown: str):
    found = re.search(r"local --port (\d+) --state-dir (\S+) &$", shown, re.MULTILINE)
    assert found
    assert "nothing of it runs any more" in shown
    assert not Path(found[2]).parent.exists()
    for words in (found[2], f"--port {found[1]}"):
        assert subprocess.run(["pgrep", "-f", "--", words], capture_output=True, check=False).returncode == 1


def test_the_same_by_hand_is_what_it_did(shown: str):
    """But for the front door's place, which by hand is the usual one."""
    did, by_hand = shown.split("The same by hand")
    typed = [line.strip() for line in by_hand.splitlines() if line.startswith("  ")]
    assert typed[0] == ".venv/bin/jitney local"
    assert {f"$ {line}" for line in typed if " local" not in line and " chat" not in line} <= set(did.splitlines())
    known = subprocess.run([sys.executable, "-m", "jitney_gateway.cli", "--help"], capture_output=True, text=True, check=True).stdout
    for line in typed:
        assert re.search(rf"\b{shlex.split(line)[1]}\b", known)


# What is missing is said in one sentence, before anything is downloaded


def test_a_machine_that_lacks_nothing(machine: Machine):
    """Else the refusals below could have any reason."""
    machine.lacks("go")
    assert machine.goes_on("demo-local")


def test_no_python_or_an_old_one(machine: Machine):
    older = "import sys, runpy; sys.version_info = (3, 9, 2, 'final', 0); runpy.run_path(sys.argv[1], run_name='__main__')"
    machine.has("python3", f'exec {os.path.realpath(sys.executable)} -c "{older}" "$@"')
    words = "Python 3.11 or newer is needed and python3 is 3.9: install a newer one, and put it first on PATH as python3"
    assert machine.refuses("demo-local") == words
    machine.lacks("python3")
    assert machine.refuses("demo-local") == "Python 3.11 or newer is needed and there is no python3: install it"


@needs_root
def test_a_disk_that_is_too_small(machine: Machine, small_disk: Path):
    cache = small_disk / "not" / "yet"
    machine.environment["JITNEY_CACHE"] = str(cache)
    words = f"1 GB of free disk are needed at {cache} and 0 GB are there: free some, or set JITNEY_CACHE"
    assert machine.refuses("demo-local") == words


def test_a_place_that_is_somebody_elses(tmp_path: Path):
    """Whoever may write everywhere is asked without that right."""
    cache = tmp_path / "theirs"
    cache.mkdir(mode=0o555)
    if os.access(cache, os.W_OK):
        program = shutil.which("setpriv")
        if not program:
            pytest.skip("root may write everywhere, and there is no setpriv to give that up")
        command = [program, "--bounding-set=-all", "--inh-caps=-all", sys.executable, str(ROOT / "e2e" / "needs.py")]
    else:
        command = [sys.executable, str(ROOT / "e2e" / "needs.py")]
    found = subprocess.run(command, env={"JITNEY_CACHE": str(cache)}, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (
        1,
        f"error: {cache} is written to and you may not write to {cache}: become its owner, or set JITNEY_CACHE\n",
    )


def test_neither_uv_nor_what_installs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    needs = runpy.run_path(str(ROOT / "e2e" / "needs.py"))
    monkeypatch.setitem(needs["missing"].__globals__, "CHECKOUT", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert needs["missing"]() == "uv is needed and there is no pip to install it: install python3-pip, or uv itself (docs.astral.sh/uv)"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert needs["missing"]() == ""
