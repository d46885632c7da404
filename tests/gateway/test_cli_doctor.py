"""`jitney doctor` on a machine: what is well, and each problem with its way out. Clusters are in test_cli_cluster."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import yaml

from jitney_gateway.cli import doctor
from jitney_gateway.cli.cluster import DEFINITION, GATEWAY
from support.answers import answering
from support.console import SCRIPT, jitney, surroundings
from support.local import NAME, Local, until

ROOT = Path(__file__).parents[2]


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
    assert "make setup" in checks["torch"]["way_out"]


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


def leading_to(url: str, folder: Path) -> dict[str, str]:
    """The variable for a kubeconfig of it."""
    cluster, context = {"name": "c", "cluster": {"server": url}}, {"name": "c", "context": {"cluster": "c", "user": "u"}}
    config = {"clusters": [cluster], "contexts": [context], "users": [{"name": "u", "user": {}}], "current-context": "c"}
    (folder / "kubeconfig").write_text(json.dumps(config))
    return {"KUBECONFIG": str(folder / "kubeconfig")}


def test_an_api_that_is_not_kubernetes(tmp_path: Path):
    with answering() as server:
        code, checks = found("-e", "kubeconfig", **leading_to(server.url, tmp_path))
    assert (code, checks["kubeconfig"]["said"]) == (1, "the Kubernetes API refuses: Not Found")


def test_a_cluster_whose_front_door_is_left_off(tmp_path: Path):
    """Its operator is installed, and an upgrade of that with values of the chart enables the front door."""
    now, established = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"), {"conditions": [{"type": "Established", "status": "True"}]}
    names = {"kind": "ModelDeployment", "plural": "modeldeployments"}
    definition = {"spec": {"group": "serving.jitney.dev", "names": names, "scope": "Namespaced", "versions": []}, "status": established}
    metadata, spec = {"name": "jitney-operator", "namespace": "jitney-system"}, {"holderIdentity": "one", "renewTime": now}
    version = dict.fromkeys(("buildDate", "compiler", "gitCommit", "gitTreeState", "goVersion", "major", "minor", "platform"), "x")
    api = {
        "/version/": version | {"gitVersion": "v1.34.0"},
        f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{DEFINITION}": definition,
        f"/apis/coordination.k8s.io/v1/leases?fieldSelector={quote('metadata.name=jitney-operator')}": {
            "items": [{"metadata": metadata, "spec": spec}]
        },
        f"/api/v1/pods?labelSelector={quote(GATEWAY)}": {"items": []},
    }
    with answering() as server:
        server.answers |= {path: (200, json.dumps(body).encode()) for path, body in api.items()}
        code, checks = found("-e", "kubeconfig", **leading_to(server.url, tmp_path))
    assert (code, checks["resource"]["ok"], checks["operator"]["ok"], checks["gateway"]["ok"]) == (1, True, True, False)
    command = shlex.split(checks["gateway"]["way_out"].partition(": ")[2])
    assert command[:4] == ["helm", "upgrade", "jitney", "charts/jitney"]
    values = yaml.safe_load((ROOT / "charts" / "jitney" / "values.yaml").read_text())["gateway"]
    given = dict(word.split("=") for flag, word in itertools.pairwise(command) if flag == "--set")
    assert given == {"gateway.enabled": "true", "gateway.image.repository": f"REGISTRY/{values['image']['repository']}"}
    assert values["enabled"] is False


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
