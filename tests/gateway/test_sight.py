"""What the watches tell, kept: pods by model, names of models. The watches themselves are tests/integration's."""

from __future__ import annotations

from typing import Any

import pytest

from jitney_gateway.kubernetes.endpoints import SERVICE, Endpoints, Pod, pods_of
from jitney_gateway.kubernetes.manifest import LABEL, name_of
from jitney_gateway.kubernetes.models import Models, Names
from jitney_gateway.kubernetes.settings import Settings, SettingsError


def endpoint(address: str, pod: str = "", **conditions: bool | None) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": pod or f"pod-{address}"}}


def made(name: str, *endpoints: dict[str, Any], model: str = "chat", namespace: str = "team", **more: Any) -> dict[str, Any]:
    labels = {LABEL: model, SERVICE: model}
    metadata = {"name": name, "namespace": namespace, "labels": labels, "resourceVersion": "1"}
    return {"addressType": "IPv4", "metadata": metadata, "ports": [{"name": "http", "port": 8000}], "endpoints": list(endpoints), **more}


class Counting:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def addresses(endpoints: Endpoints, namespace: str = "team", model: str = "chat") -> list[str]:
    return [pod.address for pod in endpoints.of((namespace, model)) if pod.ready]


# Pods


def test_pods_that_are_unready_or_leave_get_nothing():
    body = made(
        "s",
        endpoint("10.0.0.1", ready=True),
        endpoint("10.0.0.2", ready=False),
        endpoint("10.0.0.3", ready=True, serving=True, terminating=True),
        endpoint("10.0.0.4"),
        endpoint("10.0.0.5", ready=None, terminating=None),
    )
    assert [pod.address for pod in pods_of(body) if pod.ready] == [f"http://10.0.0.{number}:8000" for number in (1, 4, 5)]
    assert [pod.name for pod in pods_of(body) if not pod.ready] == ["pod-10.0.0.2"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (made("s", endpoint("fd00::7"), addressType="IPv6"), ["http://[fd00::7]:8000"]),
        (made("s", endpoint("10.0.0.1"), ports=[{"port": 1234}]), ["http://10.0.0.1:1234"]),
        (made("s", endpoint("10.0.0.1"), ports=[{"name": "x", "port": 1}, {"name": "http", "port": 2}]), ["http://10.0.0.1:2"]),
        (made("s", endpoint("10.0.0.1"), ports=None), []),
        (made("s", endpoint("example.org"), addressType="FQDN"), []),
        (made("s", endpoints=None), []),
        (made("s", {"addresses": ["10.0.0.1"]}), ["http://10.0.0.1:8000"]),
    ],
)
def test_addresses_of_every_kind(body: dict[str, Any], expected: list[str]):
    assert [pod.address for pod in pods_of(body)] == expected


def test_a_pod_in_two_slices_counts_once():
    endpoints = Endpoints(Counting())
    endpoints.put(made("four", endpoint("10.0.0.1", "chat-1"), endpoint("10.0.0.2", "chat-2", ready=False)))
    endpoints.put(made("six", endpoint("fd00::1", "chat-1"), endpoint("fd00::2", "chat-2"), addressType="IPv6"))
    assert endpoints.of(("team", "chat")) == (Pod("chat-1", "http://10.0.0.1:8000", True), Pod("chat-2", "http://[fd00::2]:8000", True))


def test_slices_come_change_and_go():
    changed = Counting()
    endpoints = Endpoints(changed)
    endpoints.put(made("a", endpoint("10.0.0.1")))
    endpoints.put(made("b", endpoint("10.0.0.2")))
    endpoints.put(made("c", endpoint("10.0.0.3"), namespace="other"))
    endpoints.put(made("d", endpoint("10.0.0.4"), model="other"))
    assert addresses(endpoints) == ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]
    endpoints.put(made("a"))
    endpoints.drop(made("never seen", model="x"))
    assert addresses(endpoints) == ["http://10.0.0.2:8000"]
    endpoints.drop(made("b"))
    assert addresses(endpoints) == []
    assert changed.count == 7


def test_a_listing_replaces_what_was_there_in_its_namespace_only():
    changed = Counting()
    endpoints = Endpoints(changed)
    endpoints.put(made("c", endpoint("10.0.0.3"), namespace="other"))
    for _ in range(2):
        endpoints.replace("team", [made("a", endpoint("10.0.0.1"))], 5)
    assert changed.count == 2, "the same once more is no change"
    assert addresses(endpoints) == ["http://10.0.0.1:8000"]
    endpoints.replace("team", [], 6)
    assert (addresses(endpoints), addresses(endpoints, "other")) == ([], ["http://10.0.0.3:8000"])
    endpoints.replace(None, [], 7)
    assert addresses(endpoints, "other") == []


def test_a_strangers_service_with_our_label_adds_nothing():
    body = made("a", endpoint("10.0.0.9"))
    body["metadata"]["labels"][SERVICE] = "strange"
    endpoints = Endpoints(Counting())
    endpoints.put(body)
    assert addresses(endpoints) == []


# Models and their names


def model(
    name: str,
    namespace: str = "home",
    *,
    served: str | None = None,
    version: int = 1,
    created: str = "2026-01-01T00:00:00Z",
    uid: str = "one",
) -> Any:
    metadata = {"name": name, "namespace": namespace, "resourceVersion": str(version), "creationTimestamp": created}
    return {
        "metadata": metadata | {"uid": f"{namespace}/{name}/{uid}"},
        "spec": {"model": "x/y"} | ({"servedModelName": served} if served else {}),
    }


def found(names: Names, uid: str) -> tuple[str, str] | None:
    body = names.find(uid)
    return (body["metadata"]["namespace"], body["metadata"]["name"]) if body else None


def test_names_at_home_and_elsewhere():
    names = Names([model("qwen2-5", served="qwen2.5"), model("qwen2-5", "team", served="qwen2.5"), model("only", "team")], "home")
    assert found(names, "qwen2.5") == found(names, "home/qwen2.5") == found(names, "home/qwen2-5") == ("home", "qwen2-5")
    assert found(names, "team/qwen2.5") == found(names, "team/qwen2-5") == ("team", "qwen2-5")
    assert found(names, "only") is None, "what somebody makes elsewhere takes no name over"
    assert found(names, "team/only") == ("team", "only")
    assert names.uids() == ["qwen2.5", "team/only", "team/qwen2.5"]


def test_a_served_name_at_home_may_have_a_slash():
    names = Names([model("a", served="team/chat"), model("chat", "team")], "home")
    assert found(names, "team/chat") == ("home", "a")


def test_where_two_say_the_same_name_it_is_always_the_same_one():
    young, old = model("a", served="chat", created="2026-01-02T00:00:00Z"), model("b", served="chat")
    assert found(Names([young, old], "home"), "chat") == found(Names([old, young], "home"), "chat") == ("home", "b")
    for name in ("chat", name_of("chat", apart=True)):
        made = model(name, served="chat", created="2026-01-03T00:00:00Z")
        assert found(Names([young, old, made], "home"), "chat") == ("home", name), "what a launch makes"


def test_an_old_event_changes_nothing_and_an_own_write_stays():
    changed = Counting()
    models = Models("home", changed)
    models.replace("home", [model("a", version=5)], 10)
    models.put(model("a", version=4, served="old"))
    models.put(model("b", version=12))
    assert models.names.uids() == ["a", "b"]
    models.replace("home", [model("a", version=5)], 11)
    assert models.names.uids() == ["a", "b"], "the listing is of a moment before the write"
    models.replace("home", [model("a", version=5)], 13)
    assert models.names.uids() == ["a"]
    models.drop(model("a"))
    assert models.names.uids() == []
    assert changed.count == 4


def test_the_end_of_one_does_not_end_the_next_of_its_name():
    """A launch's own answer may be there before the watch tells that the one before it is gone."""
    models = Models("home", Counting())
    models.put(model("a", version=5))
    models.put(model("a", version=8, uid="two"))
    models.drop(model("a", version=7))
    assert models.names.uids() == ["a"]
    models.drop(model("a", version=9, uid="two"))
    assert models.names.uids() == []


# Settings


def test_settings_as_they_are_without_a_word():
    settings = Settings.read({})
    assert (settings.port, settings.namespace, settings.namespaces, settings.linger) == (9997, "default", ("default",), 5)


def test_namespaces():
    assert Settings.read({"JITNEY_NAMESPACE": "a", "JITNEY_NAMESPACES": " b, a,c ,"}).namespaces == ("a", "b", "c")
    assert Settings.read({"JITNEY_NAMESPACES": "*"}).namespaces is None


def test_bounds_are_read():
    bounds = Settings.read({"JITNEY_HOLD_SECONDS": "7", "JITNEY_MAX_HELD_REQUESTS": "0", "JITNEY_MAX_REQUESTS": "9"}).bounds
    assert (bounds.hold_seconds, bounds.held, bounds.in_all) == (7, 0, 9)


def test_without_a_word_answers_take_as_long_as_they_take():
    assert [Settings.read(given).drain for given in ({}, {"JITNEY_DRAIN_SECONDS": ""}, {"JITNEY_DRAIN_SECONDS": "0"})] == [None, None, 0]


@pytest.mark.parametrize(
    ("name", "value"),
    [("JITNEY_DRAIN_SECONDS", "-1"), ("JITNEY_HTTP_PORT", "0"), ("JITNEY_HOLD_SECONDS", "-1"), ("JITNEY_MAX_REQUESTS", "²"),
     ("JITNEY_LOG_LEVEL", "loud"), ("JITNEY_MAX_REQUESTS", "9" * 5000)],
)  # fmt: skip
def test_a_wrong_variable_is_named(name: str, value: str):
    with pytest.raises(SettingsError, match=name):
        Settings.read({name: value})
