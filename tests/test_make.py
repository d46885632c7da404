"""The verbs whose output other programs read: a path on standard output, and nothing else."""

from __future__ import annotations

import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import test_model

ROOT = Path(__file__).parents[1]
# As a person's shell has it: a make inside of make would announce its folders.
SHELL = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def make(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=ROOT, env=SHELL | environment, capture_output=True, text=True, check=False, timeout=280)


@pytest.mark.parametrize("anew", [False, pytest.param(True, marks=pytest.mark.long)])
def test_the_models_folder(tmp_path: Path, anew: bool):
    done = make("-s", "model", **({"JITNEY_CACHE": str(tmp_path)} if anew else {}))
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in Path(line).iterdir()}
    assert ("fetching" in done.stderr) or not anew


def test_two_who_want_the_model_at_once_make_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As two processes with an empty cache do: a lock on a file holds between threads just the same."""
    monkeypatch.setenv("JITNEY_CACHE", str(tmp_path))
    begun, waits, go_on, made = threading.Event(), threading.Event(), threading.Event(), []

    def make(folder: Path) -> None:
        begun.set()
        assert go_on.wait(30)
        folder.mkdir()
        (folder / "model.safetensors").touch()
        made.append(folder)

    monkeypatch.setattr(test_model, "_make", make)
    monkeypatch.setattr(test_model, "_say", lambda text: waits.set())
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(test_model.model_folder)
        assert begun.wait(30)
        second = pool.submit(test_model.model_folder)
        assert waits.wait(30)
        go_on.set()
        assert [first.result(30), second.result(30)] == made * 2


def test_the_kubeconfigs_path(tmp_path: Path):
    """Of a kind of cluster that this machine needs nothing for; test_demo.py asks for the local one's."""
    there = {"JITNEY_CLUSTER": "kind", "JITNEY_CACHE": str(tmp_path)}
    done = make("-s", "kubeconfig", **there)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no throwaway cluster is up: run `make cluster-up`\n")
    (tmp_path / "kind.kubeconfig").touch()
    done = make("-s", "kubeconfig", **there)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path}/kind.kubeconfig\n", "")
