"""The front door over a real API server and the real operator, called by the published xinference-client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from xinference_client import RESTfulClient

from cluster.control_plane import ControlPlane
from support import children
from support.gateway import running_gateway
from support.namespaces import Namespace
from support.operator import Operator

CATALOGUED = {"model_engine": "transformers", "model_name": "qwen1.5-chat", "model_format": "pytorch"}
SMALL = {"model_engine": "transformers", "model_name": "smollm2-instruct", "model_size_in_billions": "0_135", "quantization": "none"}


@pytest.fixture
def operator(plane: ControlPlane, namespace: Namespace, tmp_path: Path) -> Iterator[Operator]:
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "operator.log") as operator:
        yield operator


@pytest.fixture
def url(namespace: Namespace, tmp_path: Path) -> Iterator[str]:
    with running_gateway(namespace, tmp_path) as gateway:
        yield gateway.url


def test_a_launch_is_a_resource_and_waits_for_ready(namespace: Namespace, operator: Operator, url: str):
    client, launched = RESTfulClient(url), []
    waiting = threading.Thread(target=lambda: launched.append(client.launch_model(**SMALL, model_uid="smol.1", max_num_seqs=8)))
    waiting.start()
    operator.until(lambda: children.deployment(namespace, "smol-1"))
    spec = namespace.get("smol-1")["spec"]
    assert (spec["model"], spec["size"], spec["servedModelName"], spec["maxNumSeqs"]) == ("smollm2-instruct", "0.135", "smol.1", 8)
    assert waiting.is_alive()
    children.finish_rollout(namespace, "smol-1")
    waiting.join(30)
    assert launched == ["smol.1"]
    described = client.describe_model("smol.1")
    assert (described["status"], described["model_size_in_billions"]) == ("READY", "0_135")
    client.terminate_model("smol.1")
    assert not namespace.kubectl("get", "mdep", "-o", "name")


def test_what_kubectl_made_is_listed_by_every_front_door(namespace: Namespace, operator: Operator, url: str, tmp_path: Path):
    """Two side by side; neither keeps anything."""
    namespace.create("made-by-hand", model="smollm2-instruct", size="0.135", servedModelName="hand.made")
    with running_gateway(namespace, tmp_path) as other:
        for address in (url, other.url):
            assert "hand.made" in RESTfulClient(address).list_models()
        RESTfulClient(other.url).terminate_model("hand.made")
        assert not RESTfulClient(url).list_models()


def test_the_resources_own_reason_is_the_error(namespace: Namespace, operator: Operator, url: str):
    client = RESTfulClient(url)
    with pytest.raises(RuntimeError, match=r"SizeNotFound: qwen1\.5-chat comes in several sizes"):
        client.launch_model(**CATALOGUED)
    assert not namespace.kubectl("get", "mdep", "-o", "name"), "a launch that failed is not left behind"
    with pytest.raises(RuntimeError, match="NotSupportedYet"):
        client.launch_model(**SMALL | {"quantization": "int8"})


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (SMALL | {"revision": "a b"}, 400, "spec.revision"),
        (SMALL | {"model_path": "/models/x"}, 400, "a pod does not see this machine's folders"),
        (SMALL | {"envs": {"1A": "x"}}, 400, "spec.env[0].name"),
    ],
)
def test_a_launch_that_the_schema_refuses(namespace: Namespace, url: str, body: dict[str, object], status: int, said: str):
    answer = httpx.post(f"{url}/v1/models", json=body)
    assert answer.status_code == status
    assert said in answer.json()["detail"]


def test_a_second_launch_of_a_uid(namespace: Namespace, url: str):
    for status in (200, 400):
        answer = httpx.post(f"{url}/v1/models?wait_ready=false", json=SMALL)
        assert answer.status_code == status
    assert "already in the model list" in answer.json()["detail"]
    (name,) = json.loads(namespace.kubectl("get", "mdep", "-o", "json"))["items"]
    assert name["spec"]["servedModelName"] == "smollm2-instruct"
