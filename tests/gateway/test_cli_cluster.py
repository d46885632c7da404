"""The console script through a kubeconfig: a real API server, and a stand-in for the kubelet that leads to a real front door."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import binaries
from cluster.control_plane import ControlPlane
from jitney_gateway.cli.cluster import Cluster
from jitney_gateway.cli.endpoint import HERE, answers
from support.console import fails, jitney
from support.front_door import usual_port
from support.gateway import running_gateway
from support.kubelet import NODE, Kubelet
from support.local import Local
from support.namespaces import Namespace, define

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    binaries.build((binaries.KUBERNETES,))
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as plane:
        yield plane


@pytest.fixture(scope="module")
def kubelet(plane: ControlPlane) -> Iterator[Kubelet]:
    with Kubelet(plane) as kubelet:
        yield kubelet


@pytest.fixture
def kubeconfig(plane: ControlPlane, kubelet: Kubelet) -> Iterator[dict[str, str]]:
    """The administrator's; no front door is there before or after."""
    yield {"KUBECONFIG": str(plane.kubeconfig)}
    plane.kubectl("delete", "pods", "-A", "-l", "app.kubernetes.io/name=jitney-gateway", "--force", "--grace-period=0")


def make_gateway(plane: ControlPlane, port: int, namespace: str = "jitney-system", ready: bool = True) -> str:
    """Namespace and name of a front door's pod."""
    name = f"jitney-gateway-{next(numbers)}"
    if namespace not in plane.kubectl("get", "namespaces", "-o", "name"):
        plane.kubectl("create", "namespace", namespace)
    ports = [{"name": "metrics", "containerPort": 1}, {"name": "http", "containerPort": port}]
    spec = {"nodeName": NODE, "containers": [{"name": "gateway", "image": "x", "ports": ports}]}
    metadata = {"name": name, "namespace": namespace, "labels": {"app.kubernetes.io/name": "jitney-gateway"}}
    plane.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}
    patch = ["--subresource=status", "--type=merge", "-p", json.dumps({"status": status})]
    plane.kubectl("patch", "pod", name, "-n", namespace, *patch)
    return f"{namespace}/{name}"


def port_of(local: Local) -> int:
    return int(local.url.rpartition(":")[2])


def visitor(plane: ControlPlane, folder: Path, namespace: str, rules: list[dict[str, Any]]) -> dict[str, str]:
    """The kubeconfig of somebody who may only do this, and only there."""
    name = f"visitor-{next(numbers)}"
    config = json.loads(plane.credentials(name).read_text())
    config["contexts"][0]["context"]["namespace"] = namespace
    (folder / "kubeconfig").write_text(json.dumps(config))
    if rules:
        api = "rbac.authorization.k8s.io"
        metadata = {"name": name, "namespace": namespace}
        role = {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": metadata, "rules": rules}
        binding = {"apiVersion": f"{api}/v1", "kind": "RoleBinding", "metadata": metadata}
        binding |= {"roleRef": {"apiGroup": api, "kind": "Role", "name": name}}
        binding |= {"subjects": [{"apiGroup": api, "kind": "User", "name": name}]}
        for body in (role, binding):
            plane.kubectl("create", "-f", "-", input=json.dumps(body))
    return {"KUBECONFIG": str(folder / "kubeconfig")}


SEES_PODS = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "get"]}
FORWARDS = {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["get", "create"]}


# The way there


def test_the_ready_pod_is_asked_and_told(plane: ControlPlane, kubelet: Kubelet, local: Local, kubeconfig: dict[str, str]):
    make_gateway(plane, 1, ready=False)
    pod = make_gateway(plane, port_of(local))
    done = jitney("list", "-e", "kubeconfig", "-o", "json", **kubeconfig)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert f"Asking {pod} in the cluster jitney, through your kubeconfig." in done.stderr
    assert kubelet.forwarded[-1] == f"{pod}:{port_of(local)}"
    fails("launch", "-e", "kubeconfig", "-n", "nope", said="Model not found, name: nope", **kubeconfig)


def test_without_a_name_the_cluster_comes_after_this_machine(plane: ControlPlane, local: Local, kubeconfig: dict[str, str]):
    pod = make_gateway(plane, port_of(local))
    with usual_port():
        assert not answers(HERE), "a front door of this machine answers, and would be asked"
        assert f"Asking {pod}" in jitney("list", **kubeconfig).stderr


def test_many_connections_and_large_answers(
    plane: ControlPlane, kubelet: Kubelet, local: Local, kubeconfig: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    make_gateway(plane, port_of(local))
    # It is read from the environment once, by whoever imported it first.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", kubeconfig["KUBECONFIG"])
    before = len(kubelet.forwarded)
    url = (cluster := Cluster()).forward(cluster.gateway())
    expected = httpx.get(f"{local.url}/openapi.json").text
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: httpx.get(f"{url}/openapi.json", timeout=60).text, range(32)))
    assert found == [expected] * 32
    assert len(kubelet.forwarded) == before + 32


def test_who_sees_only_a_namespace_is_led_there(plane: ControlPlane, local: Local, kubeconfig: dict[str, str], tmp_path: Path):
    pod = make_gateway(plane, port_of(local), "team")
    environment = visitor(plane, tmp_path, "team", [SEES_PODS, FORWARDS])
    done = jitney("list", "-e", "kubeconfig", **environment)
    assert done.returncode == 0, done.stderr
    assert f"Asking {pod}" in done.stderr


# No way there


def test_no_front_door_in_the_cluster(kubeconfig: dict[str, str]):
    fails("list", "-e", "kubeconfig", said="no pod is labelled app.kubernetes.io/name=jitney-gateway", **kubeconfig)


def test_a_front_door_that_is_not_ready(plane: ControlPlane, kubeconfig: dict[str, str]):
    pod = make_gateway(plane, 9997, ready=False)
    fails("list", "-e", "kubeconfig", said=f"pod {pod} is not ready", **kubeconfig)


def test_two_front_doors_are_a_choice(plane: ControlPlane, local: Local, kubeconfig: dict[str, str], tmp_path: Path):
    make_gateway(plane, port_of(local), "team")
    make_gateway(plane, port_of(local), "others")
    fails("list", "-e", "kubeconfig", said="a front door in each of others, team: choose with `kubectl config", **kubeconfig)
    # Who works in one of the namespaces has chosen.
    config = json.loads(plane.kubeconfig.read_text())
    config["contexts"][0]["context"]["namespace"] = "team"
    (tmp_path / "config").write_text(json.dumps(config))
    assert "Asking team/" in jitney("list", "-e", "kubeconfig", KUBECONFIG=str(tmp_path / "config")).stderr


def test_who_may_not_look(plane: ControlPlane, kubeconfig: dict[str, str], tmp_path: Path):
    environment = visitor(plane, tmp_path, "default", [])
    fails("list", "-e", "kubeconfig", said="the Kubernetes API refuses: pods is forbidden", **environment)


def test_who_may_look_and_not_enter(plane: ControlPlane, local: Local, kubeconfig: dict[str, str], tmp_path: Path):
    pod = make_gateway(plane, port_of(local), "team")
    environment = visitor(plane, tmp_path, "team", [SEES_PODS])
    fails("list", "-e", "kubeconfig", said=f"{pod} cannot be reached through the API server: ", **environment)


def test_a_pod_that_does_not_listen(plane: ControlPlane, kubeconfig: dict[str, str]):
    make_gateway(plane, 9)
    fails("list", "-e", "kubeconfig", said="does not answer", **kubeconfig)


def test_no_cluster(plane: ControlPlane, tmp_path: Path):
    fails("list", "-e", "kubeconfig", said="there is no usable kubeconfig", KUBECONFIG=str(tmp_path / "nothing"))
    (tmp_path / "damaged").write_text("{")
    fails("list", "-e", "kubeconfig", said="there is no usable kubeconfig", KUBECONFIG=str(tmp_path / "damaged"))
    config = json.loads(plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "dead").write_text(json.dumps(config))
    fails("list", "-e", "kubeconfig", said="the Kubernetes API of your kubeconfig does not answer", KUBECONFIG=str(tmp_path / "dead"))


# The doctor


def checks(environment: dict[str, str]) -> tuple[int, dict[str, dict[str, Any]]]:
    done = jitney("doctor", "-e", "kubeconfig", "-o", "json", **environment)
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)}


def lead(plane: ControlPlane, seconds_ago: float) -> None:
    """As an operator that said so then."""
    at = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"holderIdentity": "operator-1", "leaseDurationSeconds": 15, "renewTime": at}
    metadata = {"name": "jitney-operator", "namespace": "jitney-system"}
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
    plane.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(lease))


def test_the_doctor_of_a_cluster(plane: ControlPlane, local: Local, kubeconfig: dict[str, str]):
    code, found = checks(kubeconfig)
    assert code == 1
    assert found["kubeconfig"]["ok"] is True
    for name in ("endpoint", "resource", "operator", "gateway"):
        assert found[name]["ok"] is False, name
    assert "helm install" in found["resource"]["way_out"]
    assert "helm upgrade" in found["gateway"]["way_out"]
    define(plane)
    make_gateway(plane, port_of(local), ready=False)
    lead(plane, 3600)
    _, found = checks(kubeconfig)
    assert found["resource"]["ok"] is True
    assert "operator-1 has been silent for 36" in found["operator"]["said"]
    assert found["gateway"]["said"].startswith("not ready: jitney-system/")
    make_gateway(plane, port_of(local))
    lead(plane, 1)
    code, found = checks(kubeconfig)
    assert code == 0, found
    assert found["operator"]["said"] == "jitney-system/operator-1 leads"
    # Nothing of this machine matters then.
    assert "memory" not in found


def test_the_doctor_of_who_may_see_nothing(plane: ControlPlane, kubeconfig: dict[str, str], tmp_path: Path):
    code, found = checks(visitor(plane, tmp_path, "default", []))
    assert code == 1
    assert "forbidden" in found["cluster"]["said"]
    assert found["cluster"]["way_out"]


# Logs


def test_the_log_of_a_pod(plane: ControlPlane, kubelet: Kubelet, kubeconfig: dict[str, str], tmp_path: Path):
    define(plane)
    plane.kubectl("create", "namespace", "models")
    namespace = Namespace(plane, "models")
    namespace.create("chat", model="org/repo")
    metadata = {"namespace": "models", "labels": {"serving.jitney.dev/model-deployment": "chat"}}
    spec = {"nodeName": NODE, "containers": [{"name": "runtime", "image": "x"}]}
    for name in ("chat-1", "chat-2"):
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata | {"name": name}, "spec": spec}
        plane.kubectl("create", "-f", "-", input=json.dumps(body))
    kubelet.log = "loading\nready: grüezi\n".encode()
    with running_gateway(namespace, tmp_path) as gateway:
        done = jitney("logs", "-e", gateway.url, "-u", "chat", "-n", "7", "--replica", "chat-2")
        assert (done.returncode, done.stdout) == (0, kubelet.log.decode()), done.stderr
        assert kubelet.asked[-1] == ("models/chat-2/runtime", {"tailLines": "7"})
        assert jitney("logs", "-e", gateway.url, "-u", "chat", "-f").returncode == 0
        assert kubelet.asked[-1] == ("models/chat-1/runtime", {"tailLines": "200", "follow": "true"})
        fails("logs", "-e", gateway.url, "-u", "chat", "--replica", "2", said="its pods are: chat-1, chat-2")
        fails("logs", "-e", gateway.url, "-u", "nobody", said="nobody")
