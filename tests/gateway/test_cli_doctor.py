"""`jitney doctor` on a machine: what is well, and each problem with its way out. Clusters are in test_cli_cluster."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from jitney_gateway.cli import doctor
from support.answers import answering
from support.console import SCRIPT, jitney, surroundings
from support.local import NAME, Local, until


def found(*words: str, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the last check of each name."""
    done = jitney("doctor", *words, "-o", "json", **environment)
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)}


def test_all_is_well(local: Local, tmp_path: Path):
    done = jitney("doctor", "-e", local.url, HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout
    for line in (f"ok      endpoint   {local.url} answers", "ok      version ", "ok      key        none is needed", "ok      torch "):
        assert line in done.stdout
    assert done.stdout.endswith("no problem found\n")


def test_nobody_there():
    done = jitney("doctor", "-e", "http://127.0.0.1:9")
    assert done.returncode == 1
    assert "problem endpoint   http://127.0.0.1:9 does not answer" in done.stdout
    assert "see whether it runs" in done.stdout


def test_a_model_that_failed(local: Local, tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing-known"}')
    body = NAME | {"model_uid": "broken", "model_path": str(tmp_path)}
    assert httpx.post(f"{local.url}/v1/models?wait_ready=false", json=body).status_code == 200
    until(lambda: httpx.get(f"{local.url}/v1/models/broken").json()["status"] == "ERROR", 200)
    code, checks = found("-e", local.url)
    httpx.delete(f"{local.url}/v1/models/broken")
    assert code == 1
    assert checks["model"]["ok"] is False
    assert checks["model"]["said"].startswith("broken: ERROR, NotSupportedYet")
    assert "jitney logs -u broken" in checks["model"]["way_out"]
    assert checks["endpoint"]["ok"] is True


def test_torch_that_cannot_be_imported(local: Local, tmp_path: Path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libcudart.so.13: cannot open shared object file')")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    code, checks = found("-e", local.url, PYTHONPATH=path)
    assert code == 1
    assert "libcudart.so.13" in checks["torch"]["said"]
    assert "pip install 'jitney[runtime]'" in checks["torch"]["way_out"]


@pytest.mark.parametrize(("options", "said"), [("size=1m", "0 GiB free"), ("ro", "may not be written")])
def test_a_disk_without_room_for_downloads(local: Local, tmp_path: Path, options: str, said: str):
    script = f"mount -t tmpfs -o {options} none {tmp_path} && exec {SCRIPT} doctor -e {local.url} -o json"
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings(HF_HOME=str(tmp_path)))
    assert done.returncode == 1, done.stderr
    (check,) = (check for check in json.loads(done.stdout) if check["name"] == "downloads")
    assert said in check["said"]
    assert "HF_HOME" in check["way_out"]


def test_a_front_door_of_another_version_that_wants_a_key():
    with answering() as server:
        server.answers["/v1/cluster/version"] = (200, b'{"version": "9.9.9"}')
        server.answers["/v1/cluster/auth"] = (200, b'{"auth": true}')
        server.answers["/v1/models"] = (401, b'{"detail": "the key is missing"}')
        code, checks = found("-e", server.url)
    assert code == 1
    assert "the front door has 9.9.9" in checks["version"]["said"]
    assert "same version" in checks["version"]["way_out"]
    assert "the key is missing" in checks["key"]["said"]
    assert "--api-key" in checks["key"]["way_out"]


def test_no_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.memory, "available", lambda: 100 * 1024**2)
    check = next(check for check in doctor._machine() if check.name == "memory")
    assert (check.well, check.said) == (False, "0.1 GiB free")


def test_a_machine_with_nothing_and_one_whose_port_is_taken():
    other = """python3 -m http.server 9997 --bind 127.0.0.1 >/dev/null 2>&1 &
        until python3 -c "import socket; socket.create_connection(('127.0.0.1', 9997))" 2>/dev/null; do sleep 0.1; done"""
    for before, said in (("", "9997 is free"), (other, "9997 is taken by another program")):
        command = [
            "unshare",
            "--map-root-user",
            "--net",
            "sh",
            "-c",
            f"ip link set lo up; {before}\n{SCRIPT} doctor -o json; kill $!; true",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=surroundings(KUBECONFIG="/nowhere"))
        checks = {check["name"]: check for check in json.loads(done.stdout)}
        assert "no front door was found" in checks["endpoint"]["said"]
        assert "jitney local" in checks["endpoint"]["way_out"]
        assert checks["kubeconfig"]["ok"] is False
        assert said in checks["port"]["said"]
        assert checks["port"]["ok"] is (not before)
