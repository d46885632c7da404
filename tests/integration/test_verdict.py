"""Whether a launch fits, told by the front door before it: the API server tries the resource, and the real operator judges it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import yaml

from cluster import ports
from cluster.control_plane import ControlPlane
from support.gateway import running_gateway
from support.namespaces import Namespace
from support.operator import Operator

SMALL = {"model_engine": "transformers", "model_name": "smollm2-instruct", "model_size_in_billions": "0_135"}
CONFIG = {
    "runtimeImage": "jitney-runtime:0.1.0",
    "profiles": {"cpu": {"device": "cpu", "memory": "4Gi"}, "big": {"device": "cpu", "memory": "40Gi"}},
    "allow": {"env": ["HF_*"]},
}


def test_the_resources_own_verdict_comes_before_the_launch(plane: ControlPlane, namespace: Namespace, tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    with (
        Operator(plane.kubeconfig, namespace.name, tmp_path / "operator.log", JITNEY_CONFIG=str(config)) as operator,
        running_gateway(namespace, tmp_path, JITNEY_OPERATOR_URL=f"http://127.0.0.1:{operator.port}") as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as client,
    ):
        operator.until(lambda: _ready(operator), 90)

        def fit(**more: Any) -> tuple[str, str]:
            answer = client.post("/v1/models/fit", json=SMALL | more)
            answer.raise_for_status()
            return answer.json()["verdict"], answer.json()["message"]

        def status(name: str) -> dict[str, Any]:
            """Once its spec was judged."""
            return operator.until(lambda: namespace.condition("Accepted", name) and namespace.get(name)["status"], 60)

        verdict, message = fit()
        assert verdict == "fits"
        assert " of the 4.00Gi of the profile cpu (weights " in message
        big = {"model_name": "qwen2.5-instruct", "model_size_in_billions": 7}
        verdict, message = fit(**big)
        assert verdict == "fits"
        assert "big (40.00Gi) holds the model and cpu (4.00Gi) would not." in message
        verdict, message = fit(**big, max_num_seqs=512, max_model_len=32768)
        assert (verdict, "What would fit: " in message) == ("does_not_fit", True)
        assert fit(model_name="org/unheard-of")[0] == "unknown"
        assert fit(envs={"SECRET": "x"})[0] == "refused"
        assert not namespace.kubectl("get", "mdep", "-o", "name"), "nothing is made"

        # The same launches, made: what was said is what their status says.
        for uid, launch in (
            ("small", {}),
            ("large", {**big, "max_num_seqs": 512, "max_model_len": 32768}),
            ("odd", {"envs": {"SECRET": "x"}}),
        ):
            verdict, message = fit(model_uid=uid, **launch)
            client.post("/v1/models?wait_ready=false", json=SMALL | launch | {"model_uid": uid}).raise_for_status()
            found = status(uid)
            accepted = namespace.condition("Accepted", uid)
            words = found["resolved"]["estimatedMemory"] if verdict == "fits" else accepted["message"]
            assert words in message
            assert (accepted["status"], accepted["reason"]) == {
                "fits": ("True", "Fits"),
                "does_not_fit": ("False", "DoesNotFit"),
                "refused": ("False", "NotAllowed"),
            }[verdict]


def test_where_the_operator_is_not_heard_it_is_not_known(namespace: Namespace, tmp_path: Path):
    nobody = f"http://127.0.0.1:{ports.free(1)[0]}"
    with running_gateway(namespace, tmp_path, JITNEY_OPERATOR_URL=nobody) as gateway:
        found = httpx.post(f"{gateway.url}/v1/models/fit", json=SMALL, timeout=30).json()
        assert found["verdict"] == "unknown"
        assert "decided by the operator, which could not be asked" in found["message"]
        assert "the operator gives no verdict" in gateway.log.read_text()


def _ready(operator: Operator) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{operator.port}/readyz").status_code == 200
    except httpx.TransportError:
        return False
