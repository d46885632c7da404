"""Load in, replicas out; the clock is a number."""

from __future__ import annotations

from typing import Any

import pytest

from jitney_operator.api import Autoscaling, Key, ModelDeployment
from jitney_operator.autoscale import QUIET, Scaler, asked_for
from jitney_operator.load import current, read
from jitney_operator.observed import Observed
from jitney_operator.targets import target
from support.keda import of_keda

BOUNDS = Autoscaling(least=1, most=5, target=10, delay=60)
SLEEPY = Autoscaling(least=0, most=5, target=10, delay=60)


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


def test_the_last_replica_goes_after_the_delay_too():
    scaler = Scaler(1)
    assert [scaler.look(load, SLEEPY, at) for at, load in ((0, 0), (10, 11), (20, 0), (70, 0), (71, 1), (131, 0), (132, 0))] == [
        1, 2, 2, 2, 1, 1, 0
    ]  # fmt: skip


def test_who_sleeps_stays_asleep_and_nothing_is_known_of_its_load():
    scaler = Scaler(0, "a")
    assert {scaler.look(None, SLEEPY, at) for at in range(0, 1000, 10)} == {0}
    assert scaler.hear("a", SLEEPY, 1000) == 0, "an old word wakes nobody"
    assert scaler.hear("", SLEEPY, 1001) == 0, "nor does one that is taken away"


def test_a_new_word_of_a_front_door_wakes_at_once_and_counts_as_one_request():
    scaler = Scaler(0, "a")
    assert scaler.hear("b", SLEEPY, 0) == 1
    assert {scaler.look(None, SLEEPY, at) for at in range(0, 900, 2)} == {1}, "however long it loads"
    assert [scaler.look(0, SLEEPY, at) for at in (900, 958, 959)] == [1, 1, 0], "60 s after the look that knew nothing last"


def test_a_new_word_lowers_nothing_and_raises_nothing_that_runs():
    scaler = Scaler(3)
    scaler.look(25, SLEEPY, 0)
    assert scaler.hear("a", SLEEPY, 1) == 3
    assert [scaler.look(0, SLEEPY, at) for at in (60, 61)] == [3, 1]


def test_without_a_delay_the_one_that_was_woken_still_gets_its_request():
    scaler, bounds = Scaler(0), Autoscaling(0, 5, 10, 0)
    assert scaler.hear("a", bounds, 0) == 1
    assert [scaler.look(0, bounds, at) for at in (1, QUIET - 1, QUIET)] == [1, 1, 0]
    assert [scaler.look(load, bounds, 100 + at) for at, load in ((0, 30), (1, 0), (QUIET, 0))] == [3, 1, 0]


def test_bounds_that_change_while_it_sleeps():
    scaler = Scaler(0)
    scaler.look(None, SLEEPY, 0)
    assert scaler.look(None, BOUNDS, 1) == 1
    assert [scaler.look(0, SLEEPY, at) for at in (2, 62)] == [1, 0]


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


@pytest.mark.parametrize(
    ("scaled", "deployed", "replicas", "begins"),
    [
        # A new one, and one that was suspended.
        (None, None, 2, 2), (None, 0, 2, 2), (None, 3, 2, 3), (None, 0, 0, 0),
        # One that sleeps, also where somebody took its Deployment away; one that was woken and of which that was not yet told.
        (0, 0, 2, 0), (0, None, 2, 0), (0, 1, 2, 1), (3, 3, 2, 3),
    ],
)  # fmt: skip
def test_what_an_operator_that_starts_goes_on_from(scaled: int | None, deployed: int | None, replicas: int, begins: int):
    metadata = {"name": "chat", "namespace": "team", "uid": "u1"}
    status = {} if scaled is None else {"autoscaling": {"replicas": scaled, "decidedBy": "Load"}}
    spec = {"model": "x/y", "replicas": replicas, "autoscaling": {"minReplicas": 0, "maxReplicas": 4}}
    mdep = ModelDeployment.parse({"metadata": metadata, "spec": spec, "status": status})
    assert current(Observed(None if deployed is None else {"spec": {"replicas": deployed}}), mdep) == begins


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
        ({"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_whom_an_autoscaler_scales(reference: dict[str, str] | None, found: Key | None):
    assert target({"metadata": {"name": "x", "namespace": "team"}, "spec": {"scaleTargetRef": reference}}) == found


def test_whom_keda_scales():
    """By its HPA, and by the ScaledObject, which may name neither kind nor version: it means a Deployment then."""
    assert target(of_keda("team", "smollm2")) == Key("team", "smollm2")
    scaled_object = {
        "metadata": {"name": "chat", "namespace": "team"},
        "spec": {"minReplicaCount": 0, "triggers": [{"type": "prometheus"}]},
    }
    reference = {"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "name": "smollm2"}
    assert target({**scaled_object, "spec": {**scaled_object["spec"], "scaleTargetRef": reference}}) == Key("team", "smollm2")
    assert target({**scaled_object, "spec": {**scaled_object["spec"], "scaleTargetRef": {"name": "smollm2"}}}) is None
