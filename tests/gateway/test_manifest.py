"""Launches as ModelDeployments, and ModelDeployments as models."""

from __future__ import annotations

import re
from typing import Any

import pytest

from jitney_gateway.destination import Prospect
from jitney_gateway.errors import GatewayError
from jitney_gateway.kubernetes.backend import told
from jitney_gateway.kubernetes.endpoints import Pod
from jitney_gateway.kubernetes.manifest import LONGEST_NAME, model_of, name_of, put_to_rest, resource, without_pods
from jitney_gateway.launch import Launch
from jitney_gateway.progress import share


@pytest.mark.parametrize(
    ("uid", "name"),
    [("qwen1.5-chat", "qwen1-5-chat"), ("Qwen2_5", "qwen2-5"), ("7b", "m-7b"), ("a", "a"), ("-x-", "x"), ("A" * 52, "a" * 52)],
)
def test_a_uid_becomes_a_services_name(uid: str, name: str):
    assert name_of(uid) == name


def test_long_uids_stay_apart_and_others_where_they_must():
    long = [name_of("m" * 90 + end) for end in "ab"]
    assert long == [name_of("m" * 90 + end, apart=True) for end in "ab"]
    names = {*long, *(name_of(uid, apart=True) for uid in ("chat", "Chat", "7b", "m" * 52))}
    assert len(names) == 6
    assert all(len(name) <= LONGEST_NAME and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) for name in names)


def test_a_launch_as_a_resource():
    launch = Launch("qwen1.5-chat", size="4", max_num_seqs=32, envs={"HF_TOKEN": "x"}, dtype="bfloat16")
    body = resource(launch, "qwen1.5-chat", "team")
    assert body["metadata"] == {"name": "qwen1-5-chat", "namespace": "team"}
    spec = {"model": "qwen1.5-chat", "servedModelName": "qwen1.5-chat", "size": "4", "maxNumSeqs": 32, "quantization": "none"}
    assert body["spec"] == body["spec"] | spec
    assert body["spec"]["args"] == ["--dtype", "bfloat16"]
    assert "revision" not in body["spec"]


def test_a_template_and_stops_as_arguments_that_the_resource_has_room_for():
    launch = Launch("m", dtype="float32", chat_template="{{ x }}" * 400, stop=("a, b", "$(X)", "\0" * 128), stop_token_ids=(2, 0))
    words = resource(launch, "m", "team")["spec"]["args"]
    assert words[:2] == ["--dtype", "float32"]
    assert "".join(word.removeprefix("--chat-template=") for word in words[2:5]) == launch.chat_template
    assert words[5:7] == ['--stop=["a, b"]', '--stop=["\\u0024(X)"]']
    assert words[8:] == ["--stop-token-ids=2,0"]
    assert max(map(len, words)) <= 1024


def test_a_size_of_a_repository_is_kept_beside_the_spec():
    """The spec's size belongs to names of the catalogue."""
    body = resource(Launch("org/repo", size="4"), "repo", "team")
    assert "size" not in body["spec"]
    body["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    assert model_of(body, "repo").launch.size == "4"


@pytest.mark.parametrize(("asked", "told"), [(4, "4"), ("0.5", "0.5")])
def test_what_was_asked_for_is_told_until_the_operator_has_looked(asked: int | str, told: str):
    made = body()
    made["spec"] |= {"size": asked, "device": "cpu", "maxModelLen": 2048, "revision": "main"}
    launch = model_of(made, "chat").launch
    assert (launch.size, launch.device, launch.max_model_len, launch.revision) == (told, "cpu", 2048, "main")
    made["status"] = {"resolved": {"size": "7", "device": "cuda", "maxModelLen": 1024, "revision": "4ee3"}}
    launch = model_of(made, "chat").launch
    assert (launch.size, launch.device, launch.max_model_len, launch.revision) == ("7", "cuda", 1024, "4ee3")


def test_a_folder_that_no_pod_sees_is_refused():
    with pytest.raises(GatewayError, match="write pvc://claim/path"):
        resource(Launch("x", model_path="/models/x"), "x", "team")
    assert resource(Launch("x", size="4", model_path="pvc://c/m"), "x", "team")["spec"]["model"] == "pvc://c/m"


def body(**status: Any) -> dict[str, Any]:
    metadata = {"name": "chat", "namespace": "team", "generation": 2, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": metadata, "spec": {"model": "x/y", "maxNumSeqs": 8}, "status": {"observedGeneration": 2, **status}}


def conditions(**found: str) -> list[dict[str, str]]:
    return [{"type": kind, "status": value, "reason": "R", "message": "m"} for kind, value in found.items()]


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ({}, "LOADING"),
        ({"conditions": conditions(Ready="True", Available="True")}, "READY"),
        ({"conditions": conditions(Ready="True", Available="True"), "observedGeneration": 1}, "LOADING"),
        ({"conditions": conditions(Ready="True", Available="False")}, "LOADING"),
        ({"conditions": conditions(Ready="False", Stalled="True")}, "ERROR"),
    ],
)
def test_the_state_of_a_model_is_its_resources(status: dict[str, Any], expected: str):
    assert model_of(body(**status), "chat").status == expected


def stands(reason: str, last: str, accepted: str = "True") -> dict[str, Any]:
    found = conditions(Ready="False", Accepted=accepted)
    found[0]["reason"] = reason
    return {"conditions": found, "lastFailure": {"reason": last, "message": "m", "time": "2026-01-01T00:00:00Z"}}


@pytest.mark.parametrize(
    ("status", "failing"),
    [
        ({}, ""),
        (stands("CrashLoop", "CrashLoop"), "CrashLoop: m"),
        # What lastFailure tells of is over.
        (stands("Downloading", "Unschedulable"), ""),
        (stands("Downloading", "Unschedulable") | {"lastFailure": None}, ""),
        (stands("ChildRefused", "CrashLoop", accepted="False"), "ChildRefused: m"),
        (stands("CrashLoop", "CrashLoop") | {"observedGeneration": 1}, ""),
        (stands("R", "R") | {"conditions": conditions(Ready="True", Available="True")}, ""),
    ],
)
def test_a_start_fails_while_its_reason_is_the_failures(status: dict[str, Any], failing: str):
    model = model_of(body(**status), "chat")
    assert (model.failing, model.progressed()["failing"]) == (failing, failing)


def test_a_model_that_failed_says_so_in_its_progress():
    model = model_of(body(conditions=conditions(Ready="False", Stalled="True"), progress="loading 50 %"), "chat")
    assert (model.status, model.stage) == ("ERROR", "error")


@pytest.mark.parametrize(
    ("status", "ready", "expected"),
    [
        ({}, False, ("LOADING", "")),
        (stands("Downloading", "Unschedulable"), False, ("LOADING", "")),
        (stands("CrashLoop", "CrashLoop"), False, ("ERROR", "CrashLoop: m")),
        (stands("CrashLoop", "CrashLoop"), True, ("READY", "")),
        ({"conditions": conditions(Ready="False", Stalled="True")}, False, ("ERROR", "R: m")),
    ],
)
def test_a_pod_that_does_not_come_is_told_with_the_reason(status: dict[str, Any], ready: bool, expected: tuple[str, str]):
    replica = told(Pod("chat-x", "http://10.0.0.1:8000", ready), model_of(body(**status), "chat"))
    assert (replica.status, replica.message) == expected


def asked(status: dict[str, Any], **spec: Any) -> dict[str, Any]:
    found = body(**status)
    return {**found, "spec": found["spec"] | spec}


def scaled(replicas: int, by: str = "Load") -> dict[str, Any]:
    return {"autoscaling": {"replicas": replicas, "decidedBy": by}}


STALLED = {"conditions": conditions(Ready="False", Stalled="True")}
SLEEPY = {"minReplicas": 0, "maxReplicas": 2}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (asked({}), Prospect.COMING),
        (asked({"conditions": conditions(Ready="True")}), Prospect.COMING),
        (asked({}, replicas=0), Prospect.ASLEEP),
        (asked({}, replicas=0, suspend=True), Prospect.SUSPENDED),
        (asked({}, replicas=0, autoscaling={"maxReplicas": 2}), Prospect.COMING),
        (asked(scaled(0), autoscaling=SLEEPY), Prospect.ASLEEP),
        (asked(scaled(0) | {"observedGeneration": 1}, autoscaling=SLEEPY), Prospect.ASLEEP),
        (asked(scaled(1), autoscaling=SLEEPY), Prospect.COMING),
        (asked(scaled(0), autoscaling=SLEEPY, suspend=True), Prospect.SUSPENDED),
        (asked(STALLED | scaled(0), autoscaling=SLEEPY), Prospect.FAILED),
        (asked(scaled(0, "HorizontalPodAutoscaler"), replicas=0, autoscaling=SLEEPY), Prospect.COMING),
        (asked(STALLED), Prospect.FAILED),
        (asked(STALLED, replicas=0), Prospect.FAILED),
        (asked(STALLED | {"observedGeneration": 1}, replicas=0), Prospect.ASLEEP),
        ({**asked({}), "metadata": body()["metadata"] | {"deletionTimestamp": "2026-01-02T00:00:00Z"}}, Prospect.FAILED),
    ],
)
def test_what_a_request_meets_without_pods(found: dict[str, Any], expected: Prospect):
    assert without_pods(found)[0] is expected


def ready(reason: str, status: str = "True") -> dict[str, Any]:
    return {"conditions": [{"type": "Ready", "status": status, "reason": reason, "message": "m"}]}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (asked(ready("Suspended")), "Suspended: m"),
        (asked(ready("Suspended"), autoscaling=SLEEPY), "Suspended: m"),
        (asked(ready("ScaledToZero")), "ScaledToZero: m"),
        # Its load may call for one any time.
        (asked(ready("ScaledToZero"), autoscaling=SLEEPY), ""),
        (asked(ready("ScaledToZero") | {"observedGeneration": 1}), ""),
        (asked(ready("Serving")), ""),
        (asked({}), ""),
    ],
)
def test_a_model_that_somebody_put_to_rest(found: dict[str, Any], words: str):
    assert put_to_rest(found) == words


def test_the_resources_words_are_told():
    assert without_pods(asked(STALLED))[1] == "R: m"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("", 0.0), ("downloading 1.5/3.0 GB", 0.25), ("downloading", 0.0), ("downloading x/y", 0.0), ("loading 50 %", 0.7),
        ("loading", 0.0), ("warming up", 0.95), ("starting on n1", 0.0),
    ],
)  # fmt: skip
def test_the_runtimes_words_as_a_share(words: str, found: float):
    assert share(words) == pytest.approx(found)
