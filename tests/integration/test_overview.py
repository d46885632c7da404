"""What the page asks of a front door in a cluster: a launch that is only tried, and every model with the resource's own reasons."""

from __future__ import annotations

import subprocess
from pathlib import Path

import httpx
import pytest

from cluster.control_plane import ControlPlane
from support.children import deployment, finish_rollout
from support.console import SCRIPT, jitney, surroundings
from support.gateway import running_gateway
from support.namespaces import Namespace
from support.operator import Operator

SMALL = {"model_engine": "transformers", "model_name": "smollm2-instruct", "model_size_in_billions": "0_135"}


def test_a_launch_is_tried_and_the_resources_reasons_are_told(plane: ControlPlane, namespace: Namespace, tmp_path: Path):
    with (
        running_gateway(namespace, tmp_path) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as client,
        Operator(plane.kubeconfig, namespace.name, tmp_path / "operator.log") as operator,
    ):

        def fit(**more: object) -> httpx.Response:
            return client.post("/v1/models/fit", json=SMALL | more)

        found = fit().json()
        assert found["verdict"] == "unknown"
        assert "the cluster accepts the resource" in found["message"]
        assert not namespace.kubectl("get", "mdep", "-o", "name"), "nothing is made"
        for refused, said in ((fit(revision="a b"), "spec.revision"), (fit(model_size_in_billions=3), "has no size 3")):
            assert refused.status_code == 400
            assert said in refused.json()["detail"]
        client.post("/v1/models?wait_ready=false", json=SMALL | {"model_uid": "smol.1", "max_num_seqs": 8}).raise_for_status()
        assert "already in the model list" in fit(model_uid="smol.1").json()["detail"]
        namespace.create("sizeless", model="qwen1.5-chat")

        def told() -> dict[str, dict[str, object]]:
            return {model["uid"]: model for model in client.get("/v1/overview").json()["models"]}

        operator.until(lambda: told()["sizeless"]["status"] == "ERROR", 90)
        assert str(told()["sizeless"]["message"]).startswith("SizeNotFound: qwen1.5-chat comes in several sizes")
        small = told()["smol.1"]
        assert (small["status"], small["size"], small["max_num_seqs"], small["replicas"]) == ("LOADING", "0.135", 8, [])
        assert small["idle"] is None
        assert client.get("/v1/overview").json()["machines"] == []


@pytest.mark.parametrize(
    ("spec", "reason", "idle"), [({"suspend": True}, "Suspended", "suspended"), ({"replicas": 0}, "ScaledToZero", "asleep")]
)
def test_what_nobody_wants_now_is_told_and_not_waited_for(
    plane: ControlPlane, namespace: Namespace, tmp_path: Path, spec: dict[str, object], reason: str, idle: str
):
    launch = [SCRIPT, "launch", "-n", "smollm2-instruct", "-s", "0_135", "-u", "chat"]
    with (
        running_gateway(namespace, tmp_path) as gateway,
        Operator(plane.kubeconfig, namespace.name, tmp_path / "operator.log") as operator,
        subprocess.Popen([*launch, "-e", gateway.url], stderr=subprocess.PIPE, text=True, env=surroundings()) as waiting,
    ):
        try:
            operator.until(lambda: namespace.kubectl("get", "deployment", "chat", "--ignore-not-found"), 60)
            assert waiting.poll() is None
            namespace.update(**spec)
            operator.until(lambda: deployment(namespace)["spec"]["replicas"] == 0)
            finish_rollout(namespace)
            operator.until(lambda: namespace.reason() == reason)
            (told,) = httpx.get(f"{gateway.url}/v1/overview").json()["models"]
            assert (told["idle"], told["status"]) == (idle, "LOADING")
            assert waiting.wait(60) == 1
        finally:
            waiting.kill()
        assert waiting.stderr is not None
        assert f"error: chat is {idle} and is not waited for: {reason}: " in waiting.stderr.read()
        assert idle.upper() in jitney("list", "-e", gateway.url, COLUMNS="200").stdout
        assert namespace.get()["spec"], "whoever wanted none wants to keep it"
