"""Custom models and replicas at front doors over a real API server, by the published xinference-client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from xinference_client import RESTfulClient

from support.gateway import Gateway, running_gateway, tell_of
from support.namespaces import Namespace

CONFIG_MAP = "jitney-registrations"
ENGINE = {"model_engine": "transformers"}
SPEC = {"model_format": "pytorch", "model_size_in_billions": 4, "quantization": "none"}


def family(name: str, *specs: dict[str, Any], **fields: Any) -> str:
    return json.dumps(
        {"version": 2, "model_name": name, "model_specs": [SPEC | spec for spec in specs or ({"model_id": "a/b"},)], **fields}
    )


def kept(namespace: Namespace) -> dict[str, str]:
    return dict(json.loads(namespace.kubectl("get", "configmap", CONFIG_MAP, "-o", "json")).get("data") or {})


@pytest.fixture
def doors(namespace: Namespace, tmp_path: Path) -> Iterator[tuple[Gateway, Gateway]]:
    """Two side by side."""
    with running_gateway(namespace, tmp_path) as one, running_gateway(namespace, tmp_path) as other:
        yield one, other


@pytest.fixture
def door(namespace: Namespace, tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway(namespace, tmp_path) as gateway:
        yield gateway


def test_what_one_front_door_registers_the_other_launches(namespace: Namespace, doors: tuple[Gateway, Gateway]):
    one, other = (RESTfulClient(door.url) for door in doors)
    on_hub, on_claim = (
        {"model_id": "team/mine", "model_revision": "v1"},
        {"model_size_in_billions": "0_5", "model_uri": "pvc://claim/small"},
    )
    one.register_model("LLM", family("Mine_1.0", on_hub, on_claim, context_length=2048), persist=False)
    assert {"model_name": "Mine_1.0", "is_builtin": False} in other.list_model_registrations("LLM")
    registered, told = json.loads(kept(namespace)["Mine_1.0"]), other.get_model_registration("LLM", "Mine_1.0")
    assert [spec["model_uri"] for spec in told["model_specs"]] == [None, "pvc://claim/small"]
    assert {**told, "model_specs": None} == {**told, **registered, "is_builtin": False, "model_specs": None}
    assert [offer["model_size_in_billions"] for offer in other.query_engine_by_model_name("Mine_1.0")["Transformers"]] == [4, "0_5"]
    with pytest.raises(RuntimeError, match=r"several sizes; give one of 4, 0\.5"):
        other.launch_model("Mine_1.0", **ENGINE)
    assert other.launch_model("Mine_1.0", **ENGINE, model_size_in_billions=4, wait_ready=False) == "Mine_1.0"
    made = namespace.get("mine-1-0")["spec"]
    assert (made["model"], made["revision"], made["maxModelLen"]) == ("hf://team/mine", "v1", 2048)
    assert made["servedModelName"] == "Mine_1.0"
    other.launch_model("Mine_1.0", **ENGINE, model_uid="small", model_size_in_billions=0.5, context_length=512, wait_ready=False)
    small = namespace.get("small")["spec"]
    assert (small["model"], small["maxModelLen"], "revision" in small) == ("pvc://claim/small", 512, False)
    listed = one.list_models()
    assert [(listed[uid]["model_name"], listed[uid]["model_size_in_billions"]) for uid in ("Mine_1.0", "small")] == [
        ("Mine_1.0", 4),
        ("Mine_1.0", "0_5"),
    ]
    assert {instance["model_uid"] for instance in httpx.get(f"{doors[0].url}/v1/models/instances?model_name=Mine_1.0").json()} == set(
        listed
    )
    other.unregister_model("LLM", "Mine_1.0")
    assert not kept(namespace)
    with pytest.raises(RuntimeError, match=r"Model Mine_1\.0 not found"):
        one.get_model_registration("LLM", "Mine_1.0")
    assert set(one.list_models()) == {"Mine_1.0", "small"}, "what was launched stays"


def test_nothing_is_lost_between_two_front_doors(namespace: Namespace, doors: tuple[Gateway, Gateway]):
    """The first registrations make the ConfigMap, all at once."""
    names = [f"model-{number}" for number in range(12)]

    def at(number: int, method: str, name: str) -> int:
        url = f"{doors[number % 2].url}/v1/model_registrations/LLM"
        if method == "POST":
            return httpx.post(url, json={"model": family(name), "persist": True}, timeout=60).status_code
        return httpx.delete(f"{url}/{name}", timeout=60).status_code

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(at, range(12), ["POST"] * 12, names)) == {200}
        assert set(kept(namespace)) == set(names)
        again = list(pool.map(at, range(6), ["POST"] * 6, ["same"] * 6))
        assert sorted(again) == [200] + [400] * 5
        assert set(pool.map(at, range(12), ["DELETE"] * 12, names)) == {200}
    assert set(kept(namespace)) == {"same"}


def test_the_config_map_is_bounded(namespace: Namespace, door: Gateway):
    client = RESTfulClient(door.url)
    long = "x" * 64_000
    for number in range(14):
        client.register_model("LLM", family(f"long-{number}", model_description=long), persist=True)
    with pytest.raises(RuntimeError, match=r"holds at most 900000 bytes and would have 9.*: unregister what is not used"):
        client.register_model("LLM", family("one-too-many", model_description=long), persist=True)
    client.unregister_model("LLM", "long-3")
    client.register_model("LLM", family("one-too-many", model_description=long), persist=True)
    assert len(kept(namespace)) == 14


def test_what_a_person_writes_into_the_config_map(namespace: Namespace, door: Gateway):
    """As from git: what is right is taken, and what is wrong breaks nothing but itself."""
    data = {"by-hand": family("by-hand"), "broken": "{", "other-name": family("another")}
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": CONFIG_MAP}, "data": data}
    namespace.kubectl("create", "-f", "-", input=json.dumps(body))
    client = RESTfulClient(door.url)
    custom = [entry["model_name"] for entry in client.list_model_registrations("LLM") if not entry["is_builtin"]]
    assert custom == ["by-hand"]
    assert "broken in the ConfigMap jitney-registrations is no family: model: is no JSON" in door.log.read_text()
    with pytest.raises(RuntimeError, match="other-name in the ConfigMap jitney-registrations calls itself another"):
        client.launch_model("other-name", **ENGINE)
    assert client.launch_model("by-hand", **ENGINE, wait_ready=False) == "by-hand"
    client.unregister_model("LLM", "broken")
    assert set(kept(namespace)) == {"by-hand", "other-name"}
    namespace.kubectl("delete", "configmap", CONFIG_MAP)
    client.register_model("LLM", family("new"), persist=True)
    assert set(kept(namespace)) == {"new"}


def test_a_custom_model_whose_weights_no_pod_could_get(namespace: Namespace, door: Gateway):
    """The schema has the last word, at the launch."""
    client = RESTfulClient(door.url)
    with pytest.raises(RuntimeError, match="model_uri: must be file:///path"):
        client.register_model("LLM", family("x", {"model_uri": "s3://bucket/x"}), persist=True)
    client.register_model("LLM", family("in-image", {"model_uri": "file:///models/x"}), persist=True)
    client.launch_model("in-image", **ENGINE, wait_ready=False)
    assert namespace.get("in-image")["spec"]["model"] == "file:///models/x"
    with pytest.raises(RuntimeError, match=r"spec\.revision"):
        client.launch_model("in-image", **ENGINE, model_uid="other", revision="v1")


def test_replicas_by_the_scale_subresource(namespace: Namespace, doors: tuple[Gateway, Gateway]):
    one, other = (RESTfulClient(door.url) for door in doors)
    namespace.create(model="a/b")
    assert one.add_model_replica("chat") == {"replica_id": 1, "replica_model_uid": "chat-1", "worker_address": None}
    added = other.add_model_replica("chat", replica=2)
    assert (added["replica"], [replica["replica_id"] for replica in added["replicas"]]) == (2, [2, 3])
    assert namespace.get()["spec"]["replicas"] == 4
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: (one, other)[number % 2].add_model_replica("chat"), range(6)))
    assert namespace.get()["spec"]["replicas"] == 10
    assert one.describe_model("chat")["replica"] == 10
    with pytest.raises(RuntimeError, match="chat has no replica 10"):
        one.terminate_model_replica("chat", 10)
    assert one.terminate_model_replica("chat", 3) == 9
    namespace.update(replicas=1)
    assert other.terminate_model_replica("chat", 0) == 0
    assert "chat" in one.list_models(), "at zero it sleeps"
    with pytest.raises(RuntimeError, match="chat has no replica 0"):
        one.terminate_model_replica("chat", 0)
    namespace.update(autoscaling={"minReplicas": 1, "maxReplicas": 3})
    with pytest.raises(RuntimeError, match=r"follows spec\.autoscaling"):
        one.add_model_replica("chat")


def test_a_replica_is_ended_by_the_name_that_is_listed(namespace: Namespace, door: Gateway):
    namespace.create(model="a/b", replicas=2)
    tell_of(namespace, 8123)
    (listed,) = door.until(lambda: httpx.get(f"{door.url}/v1/models/chat/replicas").json())
    assert listed["replica_id"] == "chat-8123"
    assert RESTfulClient(door.url).terminate_model_replica("chat", "chat-8123") == 1
    assert namespace.get()["spec"]["replicas"] == 1


def test_the_clusters_nodes_are_not_seen(door: Gateway):
    client = RESTfulClient(door.url)
    (supervisor,) = httpx.get(f"{door.url}/v1/cluster/info").json()
    assert (supervisor["node_type"], supervisor["gpu_count"]) == ("Supervisor", 0)
    assert client.get_workers_info() == []
    assert httpx.get(f"{door.url}/v1/cluster/devices").json() == 0
