"""README's commands against a cluster, run as they stand there. Those of the demo are in test_demo.py."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from product import installation

from cluster.binaries import program
from cluster.images import OPERATOR, REPOSITORY, RUNTIME
from cluster.kubectl import Kubectl
from cluster.target import Cluster

README = (REPOSITORY / "README.md").read_text()


def _block(start: str) -> str:
    (found,) = re.findall(rf"^((?:    .*\n)*    {re.escape(start)}.*\n(?:    .*\n)*)", README, re.MULTILINE)
    return re.sub(r"^    ", "", found, flags=re.MULTILINE)


@pytest.fixture
def shell(cluster: Cluster, kubectl: Kubectl, namespace: str, tmp_path: Path) -> dict[str, str]:
    """What a person's terminal has: the tools, and the test's namespace as the one that is meant."""
    config = tmp_path / "kubeconfig"
    config.write_text(kubectl("config", "view", "--raw"))
    environment = os.environ | {"KUBECONFIG": str(config), "PATH": os.pathsep.join((*_folders("kubectl", "helm"), os.environ["PATH"]))}
    subprocess.run(["kubectl", "config", "set-context", "--current", f"--namespace={namespace}"], env=environment, check=True)
    return environment


def _folders(*programs: str) -> list[str]:
    return [str(Path(program(name)).parent) for name in programs]


def test_how_to_look_at_a_resource(smollm2: str, shell: dict[str, str]) -> None:
    watch, describe, wait = _block("kubectl get mdep --watch").splitlines()
    with subprocess.Popen(shlex.split(watch), env=shell, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        header, row = watching.stdout.readline(), watching.stdout.readline()
        watching.terminate()
    assert (header.split()[0], row.split()[0]) == ("NAME", "smollm2")
    described = subprocess.run(describe, shell=True, env=shell, capture_output=True, text=True, check=True)
    assert "Every wanted replica answers chat requests." in described.stdout
    subprocess.run(wait, shell=True, env=shell, check=True, timeout=60)


def test_how_to_install_the_operator(cluster: Cluster, kubectl: Kubectl, operator: None, shell: dict[str, str]) -> None:
    """The suite's images carry digests for tags."""
    command = _block("helm install jitney").replace("\\\n", " ").strip()
    name, _, tag = cluster.reference(OPERATOR).rpartition(":")
    for written, ours in (("REGISTRY/jitney-operator", name), ("REGISTRY/jitney-runtime:0.1.0", cluster.reference(RUNTIME))):
        assert written in command
        command = command.replace(written, ours)
    installation.uninstall(kubectl)
    try:
        subprocess.run(f"{command} --set image.tag={tag} --wait --timeout 120s", shell=True, env=shell, check=True, cwd=REPOSITORY)
    finally:
        installation.install(cluster, kubectl)
