"""The front door over a real API server and the real operator, called by the published xinference-client."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from kubernetes.aio import config
from xinference_client import RESTfulClient

from cluster.control_plane import ControlPlane
from jitney_gateway import failure
from jitney_gateway.errors import GatewayError
from jitney_gateway.kubernetes import backend as backend_module
from jitney_gateway.kubernetes.backend import KubernetesBackend
from jitney_gateway.kubernetes.cluster import Cluster
from jitney_gateway.launch import Launch
from support import children
from support.console import jitney
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
    with pytest.raises(RuntimeError, match="ProfileNotFound: No profile has the device cuda"):
        client.launch_model(**SMALL | {"quantization": "int8", "n_gpu": 1})


PULLING = {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image: not found"}}


@pytest.fixture
async def backend(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubernetesBackend]:
    monkeypatch.setattr(failure, "PATIENCE", 1.0)
    monkeypatch.setattr(backend_module, "PERIOD", 0.1)
    api = await config.new_client_from_config(str(namespace.plane.kubeconfig))
    backend = KubernetesBackend(Cluster(api), namespace.name, (namespace.name,))
    backend.sight.start()
    yield backend
    await backend.close()


async def launched(backend: KubernetesBackend, namespace: Namespace, operator: Operator) -> None:
    """It has a pod, which nothing is known of yet."""
    await backend.launch(Launch("smollm2-instruct", uid="chat", size="0.135"))
    await asyncio.to_thread(operator.until, lambda: children.deployment(namespace))
    await asyncio.to_thread(children.make_pod, namespace)


async def comes_to(reason: str, namespace: Namespace, operator: Operator) -> None:
    await asyncio.to_thread(operator.until, lambda: namespace.reason() == reason)


async def test_a_launch_goes_on_after_a_failure_that_is_over(namespace: Namespace, operator: Operator, backend: KubernetesBackend):
    await launched(backend, namespace, operator)
    children.set_container(namespace, PULLING)
    await comes_to("ImagePullError", namespace, operator)
    children.set_container(namespace, {"running": {}})
    await asyncio.to_thread(operator.until, lambda: namespace.reason() != "ImagePullError")
    assert namespace.get()["status"]["lastFailure"]["reason"] == "ImagePullError"
    waiting = asyncio.create_task(backend.ready("chat"))
    # Several times as long as a failure is waited for.
    assert await asyncio.wait({waiting}, timeout=4 * failure.PATIENCE) == (set(), {waiting})
    await asyncio.to_thread(children.finish_rollout, namespace)
    async with asyncio.timeout(30):
        await waiting


async def test_a_launch_that_the_operator_does_not_accept_is_the_requests_fault(operator: Operator, backend: KubernetesBackend):
    await backend.launch(Launch("nope", uid="nope", size="7"))
    async with asyncio.timeout(30):
        with pytest.raises(GatewayError, match="nope") as told:
            await backend.ready("nope")
    assert (told.value.status, told.value.code) == (400, "launch_failed")


async def test_a_launch_that_keeps_failing_is_told(namespace: Namespace, operator: Operator, backend: KubernetesBackend):
    await launched(backend, namespace, operator)
    children.set_container(namespace, PULLING)
    async with asyncio.timeout(30):
        with pytest.raises(GatewayError, match=r"^ImagePullError: ") as told:
            await backend.ready("chat")
    assert (told.value.status, told.value.code) == (500, "launch_failed")


@pytest.mark.parametrize(("change", "reason"), [({"replicas": 0}, "ScaledToZero"), ({"suspend": True}, "Suspended")])
async def test_a_launch_that_somebody_puts_to_rest(
    namespace: Namespace, operator: Operator, backend: KubernetesBackend, change: dict[str, object], reason: str
):
    await launched(backend, namespace, operator)
    waiting = asyncio.create_task(backend.ready("chat"))
    await asyncio.to_thread(namespace.update, **change)
    await asyncio.to_thread(operator.until, lambda: children.deployment(namespace)["spec"]["replicas"] == 0)
    await asyncio.to_thread(children.finish_rollout, namespace)
    async with asyncio.timeout(30):
        with pytest.raises(GatewayError, match=f"^the launch of chat was cancelled: {reason}: ") as told:
            await waiting
    assert (told.value.status, told.value.code) == (499, "cancelled")
    assert await backend.find("chat"), "who did so keeps it"


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
        answer = httpx.post(f"{url}/v1/models?wait_ready=false", json=SMALL | {"model_uid": "mine"})
        assert answer.status_code == status
    assert "already in the model list" in answer.json()["detail"]
    (name,) = json.loads(namespace.kubectl("get", "mdep", "-o", "json"))["items"]
    assert name["spec"]["servedModelName"] == "mine"


def test_a_second_launch_without_a_uid_is_another_model(namespace: Namespace, url: str):
    """As with Xinference."""
    first, second = (httpx.post(f"{url}/v1/models?wait_ready=false", json=SMALL).json()["model_uid"] for _ in range(2))
    assert first == "smollm2-instruct"
    assert re.fullmatch(r"smollm2-instruct-[0-9a-f]{8}", second)
    made = json.loads(namespace.kubectl("get", "mdep", "-o", "json"))["items"]
    assert {item["spec"]["servedModelName"] for item in made} == {first, second}


def test_a_launch_takes_over_no_name_of_what_kubectl_made(namespace: Namespace, url: str):
    namespace.create("by-hand", model="a/b", servedModelName="smollm2-instruct")
    answer = httpx.post(f"{url}/v1/models?wait_ready=false", json=SMALL | {"model_uid": "smollm2-instruct"})
    assert answer.status_code == 400
    assert answer.json()["detail"] == "Model is already in the model list, uid: smollm2-instruct"
    chosen = httpx.post(f"{url}/v1/models?wait_ready=false", json=SMALL).json()["model_uid"]
    assert re.fullmatch(r"smollm2-instruct-[0-9a-f]{8}", chosen)
    assert set(RESTfulClient(url).list_models()) == {"smollm2-instruct", chosen}


def test_uids_that_come_to_one_resources_name(namespace: Namespace, url: str):
    client = RESTfulClient(url)
    for uid in ("chat", "Chat"):
        assert client.launch_model(**SMALL, model_uid=uid, wait_ready=False) == uid
        with pytest.raises(RuntimeError, match=f"Model is already in the model list, uid: {uid}"):
            client.launch_model(**SMALL, model_uid=uid, wait_ready=False)
    made = {item["spec"]["servedModelName"]: item for item in json.loads(namespace.kubectl("get", "mdep", "-o", "json"))["items"]}
    assert made["chat"]["metadata"]["name"] == "chat"
    assert re.fullmatch("chat-[0-9a-f]{8}", made["Chat"]["metadata"]["name"])
    assert set(client.list_models()) == set(made) == {"chat", "Chat"}
    assert client.describe_model("Chat")["status"] == "LOADING"
    client.terminate_model("chat")
    assert set(client.list_models()) == {"Chat"}
    client.terminate_model("Chat")
    assert not client.list_models()


def test_a_model_of_another_namespace_in_a_path(plane: ControlPlane, namespace: Namespace, tmp_path: Path):
    """Its uid has a slash, which the published client sends as it is and `jitney` quoted. A model there may be called what is asked of
    one here."""
    other = Namespace(plane, f"{namespace.name}-team")
    plane.kubectl("create", "namespace", other.name)
    for name in ("chat", "replicas"):
        other.create(name, model="a/b", replicas=2)
    namespace.create(other.name, model="a/b")
    with running_gateway(namespace, tmp_path, JITNEY_NAMESPACES=other.name) as gateway:
        client, uid = RESTfulClient(gateway.url), f"{other.name}/chat"
        assert {uid, other.name, f"{other.name}/replicas"} == set(client.list_models())
        assert client.describe_model(uid)["replica"] == 2
        assert client.get_launch_model_progress(uid)["progress"] == 0
        (instance,) = client.get_instance_info("a/b", uid)
        assert instance["model_uid"] == uid
        assert client.add_model_replica(uid)["replica_model_uid"] == f"{uid}-2"
        assert client.terminate_model_replica(uid, 2) == 2
        assert httpx.get(f"{gateway.url}/v1/models/{other.name}/replicas").json() == [], "those of the model here"
        assert httpx.get(f"{gateway.url}/v1/models/{other.name}%2Freplicas").json()["replica"] == 2
        with pytest.raises(RuntimeError, match=f"Model not found in the model list, uid: {other.name}/nobody"):
            client.describe_model(f"{other.name}/nobody")
        logs = httpx.get(f"{gateway.url}/v1/models/{other.name}%2Fchat/logs")
        assert (logs.status_code, logs.json()["detail"]) == (404, f"{uid} has no replica 0; its pods are: none")
        client.terminate_model(uid)
        assert jitney("terminate", "-e", gateway.url, "-u", f"{other.name}/replicas").returncode == 0
        assert set(client.list_models()) == {other.name}
