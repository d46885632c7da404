"""Load in, replicas out; the clock is a number."""

from __future__ import annotations

from typing import Any

import pytest

from jitney_operator.api import Autoscaling, Key, ModelDeployment
from jitney_operator.autoscale import Scaler, asked_for
from jitney_operator.autoscalers import target
from jitney_operator.load import read

BOUNDS = Autoscaling(least=1, most=5, target=10, delay=60)


def metrics(running: float = 3, waiting: float = 2) -> str:
    name = '{model_name="a \\"b\\" c"}'
    return f"# TYPE jitney_requests_running gauge\njitney_requests_running{name} {running}\njitney_requests_waiting{name} {waiting}\n"


@pytest.mark.parametrize(("load", "replicas"), [(0, 1), (1, 1), (10, 1), (10.5, 2), (11, 2), (50, 5), (51, 5), (10_000, 5)])
def test_replicas_for_a_load(load: float, replicas: int):
    assert asked_for(load, BOUNDS) == replicas


def test_more_load_counts_at_once_and_less_only_after_the_delay():
    scaler = Scaler(1)
    assert scaler.look(35, BOUNDS, 0) == 4
    assert [scaler.look(0, BOUNDS, at) for at in (1, 30, 59, 60)] == [4, 4, 4, 4]
    assert scaler.look(0, BOUNDS, 61) == 1


def test_scaling_down_goes_to_the_highest_of_the_delay():
    scaler = Scaler(1)
    for at, load in ((0, 50), (10, 25), (20, 15), (30, 5)):
        scaler.look(load, BOUNDS, at)
    assert [scaler.look(5, BOUNDS, at) for at in (60, 61, 70, 71, 80, 81)] == [5, 3, 3, 2, 2, 1]


def test_a_load_that_comes_back_in_time_changes_nothing():
    scaler = Scaler(1)
    assert {scaler.look(load, BOUNDS, at) for at, load in enumerate([45, 3] * 100)} == {5}


def test_an_operator_that_starts_goes_on_from_what_there_is():
    scaler = Scaler(3)
    assert scaler.look(1, BOUNDS, 100) == 3
    assert scaler.look(1, BOUNDS, 161) == 1


def test_an_unknown_load_keeps_what_there_is():
    scaler = Scaler(3)
    assert {scaler.look(None, BOUNDS, at) for at in range(0, 1000, 10)} == {3}
    assert scaler.look(0, BOUNDS, 1055) == 1


def test_new_bounds_count_at_once():
    scaler = Scaler(1)
    scaler.look(50, BOUNDS, 0)
    assert scaler.look(50, Autoscaling(1, 2, 10, 60), 1) == 2
    assert scaler.look(0, Autoscaling(3, 9, 10, 0), 2) == 3


def test_without_a_delay_less_counts_at_the_next_look():
    scaler, bounds = Scaler(1), Autoscaling(1, 5, 10, 0)
    assert [scaler.look(load, bounds, at) for at, load in enumerate([50, 0, 20, 10])] == [5, 1, 2, 1]


def test_what_a_runtime_says_is_read():
    assert read(metrics()) == 5


@pytest.mark.parametrize(
    "text", ["", "no metrics", metrics(float("nan")), metrics(-9), "jitney_requests_running 4\n", "a{ 1", "<html></html>", '{"", ="c"} }1']
)
def test_what_something_else_says_is_no_load(text: str):
    assert read(text) is None


def resource(**spec: Any) -> ModelDeployment:
    metadata = {"name": "chat", "namespace": "team", "uid": "u1"}
    return ModelDeployment.parse({"metadata": metadata, "spec": {"model": "x/y", **spec}})


def test_defaults_of_the_bounds():
    bounds = resource(autoscaling={"maxReplicas": 4}, maxNumSeqs=8).spec.autoscaling
    assert bounds == Autoscaling(least=1, most=4, target=8, delay=300)


def test_it_leaves_the_replicas_to_a_horizontal_pod_autoscaler():
    mdep = resource(autoscaling={"maxReplicas": 4})
    assert mdep.scales_itself
    assert not mdep.with_hpa(True).scales_itself


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ({"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "name": "chat"}, Key("team", "chat")),
        ({"apiVersion": "serving.jitney.dev/v2", "kind": "ModelDeployment", "name": "chat"}, Key("team", "chat")),
        ({"apiVersion": "cluster.x-k8s.io/v1", "kind": "ModelDeployment", "name": "chat"}, None),
        ({"apiVersion": "apps/v1", "kind": "Deployment", "name": "chat"}, None),
        ({}, None),
    ],
)
def test_whom_an_autoscaler_scales(reference: dict[str, str], found: Key | None):
    assert target({"metadata": {"name": "x", "namespace": "team"}, "spec": {"scaleTargetRef": reference}}) == found
