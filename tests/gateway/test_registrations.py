"""Custom models, replicas and the cluster's routes, by the published xinference-client on a real `jitney local`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from xinference_client import AsyncRESTfulClient, RESTfulClient

from hub.server import running_hub
from support.local import QUESTION, Local, running_local, until
from support.models import save_tiny

ENGINE = {"model_engine": "transformers"}


def family(name: str, **spec: Any) -> str:
    specs = [{"model_format": "pytorch", "model_size_in_billions": "0_01", "quantization": "none", **spec}]
    return json.dumps({"version": 2, "model_name": name, "model_ability": ["chat"], "model_family": "qwen2", "model_specs": specs})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"), vocab_size=49152)


def names(client: RESTfulClient) -> dict[str, bool]:
    """Registered, and whether it is built in."""
    return {entry["model_name"]: entry["is_builtin"] for entry in client.list_model_registrations("LLM")}


def assert_told(document: str, told: dict[str, Any]) -> None:
    """What was registered, and more, which says nothing else."""
    given = json.loads(document)
    specs = given.pop("model_specs")
    assert given == {key: told[key] for key in given}
    assert (told["is_builtin"], told["chat_template"], told["model_lang"]) == (False, None, ["en"])
    assert [spec | kept for spec, kept in zip(told["model_specs"], specs, strict=True)] == told["model_specs"]
    assert all((spec["model_hub"], spec["model_revision"]) == ("huggingface", None) for spec in told["model_specs"])


def chatted(client: RESTfulClient, uid: str) -> int:
    answer = client.get_model(uid).chat(QUESTION, generate_config={"max_tokens": 4, "temperature": 0})
    return int(answer["usage"]["completion_tokens"])


def test_a_custom_model_is_registered_launched_and_forgotten(client: RESTfulClient, tiny: Path):
    document = family("mine", model_uri=f"file://{tiny}")
    assert client.register_model("LLM", document, persist=True) is None
    found = names(client)
    assert found["mine"] is False
    assert found["qwen1.5-chat"] is True
    assert_told(document, client.get_model_registration("LLM", "mine"))
    offers = client.query_engine_by_model_name("mine")["Transformers"]
    offer = {"model_name": "mine", "model_format": "pytorch", "model_size_in_billions": "0_01", "quantizations": ["none"]}
    assert offers == [offer | {"support_draft_model": False}]
    uid = client.launch_model("mine", **ENGINE, model_size_in_billions="0_01", model_format="pytorch")
    assert uid == "mine"
    described = client.describe_model(uid)
    assert (described["model_name"], described["model_size_in_billions"], described["status"]) == ("mine", "0_01", "READY")
    (instance,) = client.get_instance_info("mine", uid)
    assert instance["status"] == "READY"
    assert chatted(client, uid) == 4
    assert client.unregister_model("LLM", "mine") is None
    assert "mine" not in names(client)
    assert chatted(client, uid) == 4, "a model that was launched from it stays"
    client.terminate_model(uid)
    with pytest.raises(RuntimeError, match="Model not found, name: mine"):
        client.launch_model("mine", **ENGINE)


async def test_the_async_client_registers_lists_tells_and_unregisters(caller: AsyncRESTfulClient, tiny: Path):
    document = family("theirs", model_uri=str(tiny))
    assert await caller.register_model("LLM", document, persist=False) is None
    assert {"model_name": "theirs", "is_builtin": False} in await caller.list_model_registrations("LLM")
    assert_told(document, await caller.get_model_registration("LLM", "theirs"))
    with pytest.raises(RuntimeError, match="conflicts with existing model theirs"):
        await caller.register_model("LLM", document, persist=True)
    assert await caller.unregister_model("LLM", "theirs") is None
    for call in (caller.unregister_model, caller.get_model_registration):
        with pytest.raises(RuntimeError, match="Model theirs not found"):
            await call("LLM", "theirs")


async def test_the_async_client_asks_after_a_launch_and_cancels_it(caller: AsyncRESTfulClient, tiny: Path):
    uid = await caller.launch_model("smollm2-instruct", **ENGINE, model_path=str(tiny), model_uid="never", wait_ready=False)
    (instance,) = await caller.get_instance_info("smollm2-instruct", uid)
    assert (instance["replica"], instance["replica_statuses"][0]["replica_id"]) == (1, 0)
    assert (await caller.add_model_replica(uid))["replica_id"] == 1
    assert [one["replica_id"] for one in (await caller.get_launch_model_progress(uid))["replicas"]] == [0, 1]
    assert await caller.terminate_model_replica(uid, 1) == 1
    assert await caller.query_engine_by_model_name("nobody") is None
    await caller.cancel_launch_model(uid)
    assert uid not in await caller.list_models()


def test_what_persists_is_there_after_a_restart_and_what_was_launched_too(tiny: Path, tmp_path: Path):
    with running_hub() as hub:
        hub.repositories["team/tiny"] = tiny
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        with running_local(tmp_path / "state", **environment) as first:
            client = RESTfulClient(first.url)
            client.register_model("LLM", family("kept", model_id="team/tiny"), persist=True)
            client.register_model("LLM", family("passing", model_id="team/tiny"), persist=False)
            assert client.launch_model("passing", **ENGINE, model_uid="one") == "one"
        with running_local(tmp_path / "state", **environment) as second:
            client = RESTfulClient(second.url)
            found = names(client)
            assert "kept" in found
            assert "passing" not in found
            until(lambda: client.describe_model("one")["status"] == "READY")
            assert client.describe_model("one")["model_name"] == "passing"
            assert chatted(client, "one") == 4


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("embedding", {"model": family("x", model_id="a/b")}, "model_type: only chat models are served"),
        ("LLM", {}, "model: must be the family"),
        ("LLM", {"model": "{"}, "model: is no JSON"),
        ("LLM", {"model": " " * 70_000}, "model: must be at most"),
        ("LLM", {"model": family("x", model_id="a/b"), "worker_ip": "10.0.0.1"}, "worker_ip: there are no workers"),
        ("LLM", {"model": family("x", model_id="a/b"), "persist": "yes"}, "persist: must be true or false"),
        ("LLM", {"model": family("x", model_id="a/b"), "\ud800": 1}, "this is no field of a registration"),
        ("LLM", {"model": family("qwen1.5-chat", model_id="a/b")}, "conflicts with existing model qwen1.5-chat"),
        ("LLM", {"model": family("x", model_uri="/nowhere")}, "model_specs[0].model_uri: there is no folder /nowhere"),
        ("LLM", {"model": family("x", model_uri="pvc://claim/x")}, "model_specs[0].model_uri: there is no cluster here"),
    ],
)
def test_a_registration_that_is_refused(local: Local, kind: str, body: dict[str, Any], words: str):
    answer = httpx.post(f"{local.url}/v1/model_registrations/{kind}", content=json.dumps(body))
    assert answer.status_code == 400
    assert words in answer.json()["detail"]


def test_what_is_built_in_is_told_and_stays(client: RESTfulClient):
    built_in = client.get_model_registration("LLM", "qwen1.5-chat")
    assert built_in["is_builtin"] is True
    assert {"model_id": "Qwen/Qwen1.5-4B-Chat", "model_size_in_billions": 4}.items() <= built_in["model_specs"][2].items()
    with pytest.raises(RuntimeError, match="is built in"):
        client.unregister_model("LLM", "qwen1.5-chat")
    assert client.list_model_registrations("embedding") == []


def test_replicas_are_added_and_ended(client: RESTfulClient, local: Local, tiny: Path):
    uid = client.launch_model("smollm2-instruct", **ENGINE, model_path=str(tiny), model_uid="several")
    assert client.add_model_replica(uid, n_gpu="auto") == {"replica_id": 1, "replica_model_uid": "several-1", "worker_address": None}
    until(lambda: client.describe_model(uid)["status"] == "READY")
    (instance,) = client.get_instance_info("smollm2-instruct", uid)
    assert (instance["replica"], [one["status"] for one in instance["replica_statuses"]]) == (2, ["READY", "READY"])
    assert len(local.runtimes()) == 2
    assert client.terminate_model_replica(uid, 0) == 1
    (left,) = httpx.get(f"{local.url}/v1/models/{uid}/replicas").json()
    assert (left["replica_id"], left["status"]) == (1, "READY")
    assert chatted(client, uid) == 4
    with pytest.raises(RuntimeError, match="several has no replica 0; there are 1"):
        client.terminate_model_replica(uid, 0)
    assert client.terminate_model_replica(uid, 1) == 0
    assert uid not in client.list_models(), "the last one ends the model"
    assert not local.runtimes()
    assert '"event": "terminate", "model": "several", "key": null, "address": "127.0.0.1", "why": "last_replica"' in local.log


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"replica": 0}, "replica: must be"),
        ({"replica_config": {"devices": []}}, "replica_config: replicas are all alike"),
        ({"model_engine": "vllm"}, "model_engine: the engine is transformers"),
        ({"n_gpu": 1}, "n_gpu: replicas are all alike"),
        ({"gpu_idx": 1}, "gpu_idx: this is no parameter of a replica"),
        ({}, "Model not found in the model list, uid: nobody"),
    ],
)
def test_replicas_that_are_refused(local: Local, body: dict[str, Any], words: str):
    answer = httpx.post(f"{local.url}/v1/models/nobody/replicas", json=body)
    assert answer.status_code == 400
    assert words in answer.json()["detail"]


def test_the_cluster_is_this_machine(client: RESTfulClient, local: Local):
    supervisor, worker = httpx.get(f"{local.url}/v1/cluster/info", params={"detailed": True}).json()
    assert (supervisor["node_type"], supervisor["gpu_count"], worker["node_type"]) == ("Supervisor", 0, "Worker")
    assert worker["mem_used"] + worker["mem_available"] == worker["mem_total"] > 2**30
    assert len(httpx.get(f"{local.url}/v1/cluster/info").json()[0]) == 4
    assert httpx.get(f"{local.url}/v1/cluster/devices").json() == worker["gpu_count"]
    assert set(httpx.get(f"{local.url}/v1/cluster/version").json()) == {"version", "full-revisionid"}
    assert httpx.get(f"{local.url}/v1/cluster/auth").json() == {"auth": False}
    assert set(httpx.get(f"{local.url}/status").json()) == {"uptime", "workers"}
    address = local.url.removeprefix("http://")
    assert client._get_supervisor_internal_address() == address
    assert client.get_supervisor_info() == {"supervisor_ip": address}
    (told,) = client.get_workers_info()
    assert told == {"work-ip": worker["ip_address"], "models": {}}
    assert client.vllm_models() == {}


async def test_what_is_not_here_is_refused_in_words(caller: AsyncRESTfulClient):
    calls = {
        "terminate it and launch it again": caller.reload_model("x", {}),
        "comes back by itself": caller.get_autostart_config(),
        "Hugging Face hub's own cache": caller.list_cached_models(),
        "nothing is started again from afar": caller.list_worker_relaunches(),
        "not ended from afar": caller.abort_cluster(),
        "only images have a progress": caller.get_progress("x"),
    }
    for words, call in calls.items():
        with pytest.raises(RuntimeError, match=words):
            await call
