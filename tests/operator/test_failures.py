"""A pod that fails the same way again and again, state after state as the kubelet shows them: told once. And what is news all the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from jitney_operator import plan
from jitney_operator.api import TEMPLATE, Json, ModelDeployment
from jitney_operator.catalogue import Catalogue
from jitney_operator.observed import Observed, Pod, Trouble
from jitney_operator.settings import Profile, Settings
from jitney_operator.words import COMPARED, alike

GI = 1024**3
SETTINGS = Settings(profiles={"cpu": Profile("cpu", "cpu", 4 * GI, limits={"memory": "4Gi"})})
CATALOGUE = Catalogue.read()
UIDS = (
    "bc6f4dfb-b30a-4862-af0a-5cfe827610d8",
    "0d9a1e52-77f1-4c0b-8f6e-aa31c09b5e44",
    "f00dfeed-1234-4abc-9def-0123456789ab",
    "00000000-0000-4000-8000-00000000beef",
)
HEX = ("3031673e0f92c71a2260dbe2", "91aa0e0f92c71a2260dbeeee", "aaaaaaaaaaaaaaaaaaaaaaaa", "0123456789abcdef01234567")


def resource(status: Json | None = None) -> ModelDeployment:
    metadata = {"name": "chat", "namespace": "team", "uid": "u1", "generation": 1}
    return ModelDeployment.parse({"metadata": metadata, "spec": {"model": "smollm2-instruct", "size": "0.135"}, "status": status or {}})


def status(told: Json | None, container: Json, second: int = 0, name: str = "chat-1", **pod: Any) -> Json:
    """What is told now, of one pod with this container, after `told`; `pod`: conditions of the pod, and `trouble`."""
    mdep = resource(told)
    service, deployment = (copy.deepcopy(child) for child in plan.make(mdep, Observed(), SETTINGS, CATALOGUE).changes)
    deployment["metadata"]["generation"] = 1
    deployment["status"] = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1}
    template = deployment["spec"]["template"]
    metadata = {"name": name, "uid": name, "annotations": {TEMPLATE: template["metadata"]["annotations"][TEMPLATE]}}
    containers = [{"name": "runtime", "image": "x:1", **container}] if container else []
    found = {"phase": "Running", "containerStatuses": containers, "conditions": pod.get("conditions", [])}
    spec = template["spec"] | ({} if pod.get("conditions") else {"nodeName": "n"})
    troubles = {name: pod["trouble"]} if "trouble" in pod else {}
    observed = Observed(deployment, service, (Pod({"metadata": metadata, "spec": spec, "status": found}),), troubles=troubles)
    return plan.make(mdep, observed, SETTINGS, CATALOGUE).status(f"2026-01-01T00:{second // 60:02}:{second % 60:02}Z")


def ends(code: int, words: str, attempt: int) -> Json:
    times = {"startedAt": f"2026-01-01T07:0{attempt}:00Z", "finishedAt": f"2026-01-01T07:0{attempt}:0{attempt + 3}Z"}
    return {"exitCode": code, "reason": "Error", "message": words, "containerID": f"containerd://{HEX[attempt]}", **times}


def restarts(ended: Callable[[int], Json]) -> Iterator[Json]:
    """The container through its first end and three restarts: it ends, waits longer each time, runs, ends."""
    last: Json = {}
    for attempt in range(4):
        # Not ready and not started: its startup probe fails.
        yield {
            "restartCount": attempt,
            "started": False,
            "ready": False,
            "state": {"running": {"startedAt": f"2026-01-01T07:0{attempt}:00Z"}},
            **last,
        }
        yield {"restartCount": attempt, "started": False, "ready": False, "state": {"terminated": ended(attempt)}, **last}
        last = {"lastState": {"terminated": ended(attempt)}}
        words = f"back-off {10 * 2**attempt}s restarting failed container=runtime pod=chat-1_team({UIDS[0]})"
        yield {
            "restartCount": attempt,
            "started": False,
            "ready": False,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": words}},
            **last,
        }


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (3, "CrashLoop", lambda n: f"2026-01-01T07:0{n}:41Z server[{101 + n * 99}]: no such table"),
        (3, "CrashLoop", lambda n: f"Thu Jan  {n + 1} 07:0{n}:41 2026 [{9 + n}] lost <Pool object at 0x7f{HEX[n][:9]}>"),
        (3, "CrashLoop", lambda n: f"no table (Request ID: Root=1-{HEX[n][:8]}-{HEX[n]};{UIDS[n]})"),
        (3, "CrashLoop", lambda n: "cannot open /tmp/" + ("tmpk3j_x9ab", "tmp0a_bcdef", "tmp_9zzzzzz", "tmpqq7q_q1q")[n]),
        (1, "CrashLoop", lambda n: f"OSError: dial tcp 10.0.0.{n}:{40000 + n}->10.1.0.1:443: refused after {n}m1{n}s"),
        (1, "CrashLoop", lambda n: f"took {10 ** n} ms: " + "a long line " * 300),
        (10, "ModelNotFound", lambda n: "ModelNotFound: the hub has no repository org/none"),
        (12, "HubUnreachable", lambda n: f"HubUnreachable: the hub cannot be reached: received {n * 77123} bytes, expected 290000000"),
        (13, "DiskFull", lambda n: f"DiskFull: {1.5 - n / 10:.2f} GB are needed and {n}.25GB are there"),
        (14, "OutOfMemory", lambda n: f"OutOfMemory: keys and values take {n}.23 GB and 0.{n}1 GB are left for them"),
        (15, "GPUOutOfMemory", lambda n: f"GPUOutOfMemory: Tried to allocate {n + 1}.00 GiB. Process {n * 4711} has {n}.5 GiB in use"),
        (16, "DeviceNotFound", lambda n: f"DeviceNotFound: CUDA finds none (driver handle 0x{HEX[n][:8]})"),
        (19, "ModelDamaged", lambda n: f"ModelDamaged: model-00001-of-00002.safetensors has {n * 1000} bytes of 5000"),
    ],
)  # fmt: skip
def test_three_restarts_are_told_once(code: int, reason: str, words: Callable[[int], str]):
    told: Json = {}
    states = []
    for second, container in enumerate(restarts(lambda attempt: ends(code, words(attempt), attempt))):
        told = status(told, container, second)
        states.append(told)
    assert [state["reason"] for state in states[:2]] == ["Pending", reason]
    assert states[1]["lastFailure"]["exitCode"] == code
    assert [state for state in states[2:] if state != states[1]] == []


def test_a_container_that_cannot_be_made_is_told_once():
    def tried(attempt: int) -> Json:
        words = f'failed to reserve container name "runtime_chat-1_team_{UIDS[0]}_{attempt}": name is reserved for "{HEX[attempt] * 3}"'
        return {"restartCount": 0, "state": {"waiting": {"reason": "CreateContainerError", "message": words}}}

    first = status(None, tried(0))
    assert first["reason"] == "CrashLoop"
    assert [status(first, tried(attempt), attempt) for attempt in (1, 2, 3)] == [first] * 3


@pytest.mark.parametrize("reason", ["FailedMount", "FailedCreatePodSandBox"])
def test_what_the_node_tries_again_is_told_once(reason: str):
    waiting = {"state": {"waiting": {"reason": "ContainerCreating"}}}

    def tried(attempt: int) -> Trouble:
        return Trouble(reason, f"exit status 32: Running scope as unit: run-r{HEX[attempt]}.scope, /pods/{UIDS[attempt]}, after {attempt}s")

    first = status(None, waiting, trouble=tried(0))
    assert first["reason"] in ("MountFailed", "SandboxFailed")
    assert [status(first, waiting, attempt, trouble=tried(attempt)) for attempt in (1, 2, 3)] == [first] * 3


def test_a_secret_that_the_kubelet_asks_for_again_is_still_missing():
    def waits(message: str) -> Json:
        return {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": message}}}

    asks = waits("failed to sync secret cache: timed out waiting for the condition")
    assert status(None, asks)["reason"] == "Pending"
    first = status(None, waits('secret "hub-1" not found'))
    assert status(first, asks, 1) == first
    assert status(first, asks, 1, name="chat-2")["reason"] == "Pending"
    assert 'secret "hub-2" not found' in status(first, waits('secret "hub-2" not found'), 2)["lastFailure"]["message"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((3, "worker[12] died"), (4, "worker[13] died")),
        ((3, "died"), (4, "died")),
        ((1, "worker[12] exited with code 1"), (1, "worker[13] exited with code 2")),
        ((3, "no such table 7"), (3, "no such user 7")),
        ((3, "HTTP/1.1 401 of the proxy"), (3, "HTTP/1.1 403 of the proxy")),
        ((3, "status_code=500"), (3, "status_code=502")),
        ((3, '{"code": 401}'), (3, '{"code": 403}')),
        ((3, "killed by signal 9"), (3, "killed by signal 15")),
        ((3, "CUDA error 2"), (3, "CUDA error 700")),
        ((11, "Unauthorized: the hub refuses a/b (HTTP 401)"), (11, "Unauthorized: the hub refuses a/b (HTTP 403)")),
        ((19, "ModelDamaged: model-00001-of-00002 is cut off"), (19, "ModelDamaged: model-00002-of-00002 is cut off")),
        ((10, "ModelNotFound: there is no folder /mnt/model/v1"), (10, "ModelNotFound: there is no folder /mnt/model/v2")),
    ],
)
def test_what_is_news(before: tuple[int, str], after: tuple[int, str]):
    first, second = ({"state": {"terminated": ends(*ended, attempt)}} for attempt, ended in enumerate((before, after)))
    told = status(status(None, first), second, 9)["lastFailure"]
    assert (told["exitCode"], told["time"]) == (after[0], "2026-01-01T00:00:09Z")
    assert after[1].split(": ")[-1] in told["message"]


def test_another_pod_is_told_with_its_own_words():
    """It may be of another spec, whose model differs in a number."""
    first = status(None, {"state": {"terminated": ends(10, "ModelNotFound: the hub has no repository org/chat 1", 0)}})
    told = status(first, {"state": {"terminated": ends(10, "ModelNotFound: the hub has no repository org/chat 2", 1)}}, 9, name="chat-2")
    assert told["lastFailure"]["pod"] == "chat-2"
    assert "org/chat 2" in told["lastFailure"]["message"]


def test_the_schedulers_figures_are_news():
    def unplaced(nodes: int) -> list[Json]:
        words = f"0/{nodes} nodes are available: {nodes} node(s) had untolerated taint(s)."
        return [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}]

    first = status(None, {}, conditions=unplaced(3))
    assert first["reason"] == "Unschedulable"
    assert "0/4 nodes" in status(first, {}, 9, conditions=unplaced(4))["lastFailure"]["message"]
    assert status(first, {}, 9, conditions=unplaced(3)) == first


def refused(told: Json | None, message: str, second: int = 0, reason: str = "FailedCreate") -> Json:
    """What is told of a Deployment for which no pod could be made, or with FailedDelete removed."""
    mdep = resource(told)
    service, deployment = (copy.deepcopy(child) for child in plan.make(mdep, Observed(), SETTINGS, CATALOGUE).changes)
    deployment["metadata"]["generation"] = 1
    condition = {"type": "ReplicaFailure", "status": "True", "reason": reason, "message": message}
    deployment["status"] = {"observedGeneration": 1, "conditions": [condition]}
    return plan.make(mdep, Observed(deployment, service), SETTINGS, CATALOGUE).status(f"2026-01-01T00:00:{second:02}Z")


def test_a_webhook_that_refuses_each_attempt_is_told_once():
    def words(attempt: int, why: str = "no label team") -> str:
        refusal = f'pods "chat-{HEX[attempt][:5]}" is forbidden: admission webhook "policy" denied the request'
        return f"{refusal}: {why} (request id: {UIDS[attempt]})"

    first = refused(None, words(0))
    assert first["lastFailure"]["reason"] == "PolicyDenied"
    assert [refused(first, words(attempt), attempt) for attempt in (1, 2, 3)] == [first] * 3
    assert "no label owner" in refused(first, words(1, "no label owner"), 9)["lastFailure"]["message"]


def test_the_figures_of_a_quota_are_news():
    def words(used: int) -> str:
        return f'pods "chat-1" is forbidden: exceeded quota: pods, requested: pods=1, used: pods={used}, limited: pods={used}'

    first = refused(None, words(3))
    assert first["lastFailure"]["reason"] == "QuotaExceeded"
    assert "used: pods=4" in refused(first, words(4), 9)["lastFailure"]["message"]


def test_a_pod_that_cannot_be_removed_is_not_one_that_cannot_be_made():
    words = 'pods "chat-1" is forbidden: admission webhook "policy" denied the request'
    assert refused(None, words)["reason"] == "PolicyDenied"
    told = refused(None, words, reason="FailedDelete")
    assert (told["reason"], told.get("lastFailure")) == ("Pending", None)


@pytest.mark.parametrize("names", [False, True])
def test_long_words_are_compared_by_their_beginning(names: bool):
    text = "mounting the volume, " * 200
    for length in (COMPARED - 1, COMPARED, COMPARED + 1, 4096):
        cut = [f"try {number}: {text}"[:length] for number in (9, 10, 1000)]
        assert alike(cut[0], cut[1], names=names)
        assert alike(cut[0], cut[2], names=names)
    assert not alike(f"try 9: {text}", f"try 9: un{text}", names=names)
    assert not alike("try 9", f"try 9: {text}", names=names)
    assert not alike("", text, names=names)
