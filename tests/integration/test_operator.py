"""The operator as its own process against the real API server. No controllers run: what they would write is written by hand."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.control_plane import ControlPlane
from support import children
from support.answering import answering
from support.namespaces import Namespace
from support.operator import Operator

SMALL: dict[str, Any] = {"model": "smollm2-instruct", "size": "0.135"}


@pytest.fixture
def operator(plane: ControlPlane, namespace: Namespace, tmp_path: Path) -> Iterator[Operator]:
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log") as operator:
        yield operator
    lease = json.loads(plane.kubectl("get", "lease", "jitney-operator", "-n", namespace.name, "-o", "json"))
    assert lease["spec"].get("holderIdentity", "") == "", "the lease was not released"


@pytest.fixture
def created(namespace: Namespace, operator: Operator) -> Namespace:
    """A namespace in which `chat` has its children."""
    namespace.create(**SMALL)
    operator.until(lambda: children.deployment(namespace))
    return namespace


def test_children_and_a_true_status(created: Namespace, operator: Operator):
    deployment = children.deployment(created)
    assert deployment["metadata"]["ownerReferences"][0]["uid"] == created.get()["metadata"]["uid"]
    assert children.service(created)["spec"]["ports"][0]["port"] == 80
    status = operator.until(lambda: created.get()["status"]["observedGeneration"] == 1 and created.get()["status"])
    assert (status["ready"], status["reason"]) == ("0/1", "Pending")
    assert status["resolved"]["servedModelName"] == "chat"
    assert status["resolved"]["repository"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert created.condition("Accepted")["status"] == "True"


def test_every_condition_is_there_at_first_sight(created: Namespace, operator: Operator):
    operator.until(lambda: created.get()["status"]["observedGeneration"] == 1)
    kinds = {entry["type"] for entry in created.get()["status"]["conditions"]}
    assert kinds == {"Accepted", "Scheduled", "ModelLoaded", "Available", "Progressing", "Ready"}


def test_ready_when_the_deployment_is(created: Namespace, operator: Operator):
    children.finish_rollout(created)
    operator.until(lambda: created.reason() == "Ready")
    assert created.condition("Ready")["status"] == "True"
    before = created.get()["metadata"]["resourceVersion"]
    time.sleep(2)
    assert created.get()["metadata"]["resourceVersion"] == before


def test_no_finalizer_and_no_annotation_is_left_on_the_resource(created: Namespace, operator: Operator):
    children.finish_rollout(created)
    operator.until(lambda: created.reason() == "Ready")
    metadata = created.get()["metadata"]
    assert "finalizers" not in metadata
    assert not metadata.get("annotations")
    assert created.get()["spec"] == {**created.get()["spec"], **SMALL}


def test_edits_and_deletions_of_children_are_undone(created: Namespace, operator: Operator):
    created.kubectl("scale", "deployment", "chat", "--replicas=5")
    operator.until(lambda: children.deployment(created)["spec"]["replicas"] == 1)
    patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/args", "value": ["--model", "x"]}]
    created.kubectl("patch", "deployment", "chat", "--type=json", "-p", json.dumps(patch))
    operator.until(lambda: len(children.deployment(created)["spec"]["template"]["spec"]["containers"][0]["args"]) > 2)
    created.kubectl("delete", "service", "chat")
    operator.until(lambda: children.service(created))
    created.kubectl("delete", "deployment", "chat")
    operator.until(lambda: children.deployment(created))


def test_a_repaired_child_leaves_it_ready(created: Namespace, operator: Operator):
    """Nothing comes after the repair of a Service that would correct the status."""
    children.finish_rollout(created)
    operator.until(lambda: created.reason() == "Ready")
    created.kubectl("delete", "service", "chat")
    operator.until(lambda: children.service(created))
    time.sleep(1)
    assert created.condition("Ready")["status"] == "True"
    assert [event["reason"] for event in events_of(created)][-1] == "Ready"


@pytest.mark.parametrize(
    "spec",
    [
        {"resources": {"requests": {"memory": "900Gi"}}},
        {"scheduling": {"nodeSelector": {"no such key!": "x"}}},
        {"scheduling": {"affinity": {"nodeAffinity": {"sometimes": []}}}},
    ],
    ids=["requests above limits", "a key that is none", "an affinity that is none"],
)
def test_a_child_that_the_server_refuses_is_told_in_its_words(namespace: Namespace, operator: Operator, spec: dict[str, Any]):
    namespace.create(**SMALL, **spec)
    operator.until(lambda: namespace.reason() == "ChildRefused")
    assert namespace.condition("Accepted")["status"] == "False"
    assert "The cluster refuses what this needs: " in namespace.condition("Ready")["message"]
    namespace.kubectl("patch", "mdep", "chat", "--type=merge", "-p", '{"spec": {"resources": null, "scheduling": null}}')
    operator.until(lambda: children.deployment(namespace))
    operator.until(lambda: namespace.condition("Accepted")["status"] == "True")


def test_what_others_add_is_left(created: Namespace, operator: Operator):
    created.kubectl("annotate", "deployment", "chat", "team.example/cost=42")
    created.kubectl("label", "service", "chat", "team.example/owner=us")
    created.kubectl("scale", "mdep", "chat", "--replicas=2")
    operator.until(lambda: children.deployment(created)["spec"]["replicas"] == 2)
    assert children.deployment(created)["metadata"]["annotations"]["team.example/cost"] == "42"
    assert children.service(created)["metadata"]["labels"]["team.example/owner"] == "us"


def test_scale_suspend_and_a_new_batch_width(created: Namespace, operator: Operator):
    created.kubectl("scale", "mdep", "chat", "--replicas=3")
    operator.until(lambda: children.deployment(created)["spec"]["replicas"] == 3)
    created.kubectl("patch", "mdep", "chat", "--type=merge", "-p", '{"spec": {"suspend": true, "maxNumSeqs": 4}}')
    operator.until(lambda: children.deployment(created)["spec"]["replicas"] == 0)
    args = children.deployment(created)["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[args.index("--max-num-seqs") + 1] == "4"
    children.finish_rollout(created)
    operator.until(lambda: created.reason() == "Suspended")
    assert created.condition("Ready")["status"] == "True"
    assert created.condition("Available")["status"] == "False"


def test_there_and_back_is_where_it_began(created: Namespace, operator: Operator):
    before = children.deployment(created)["spec"]
    for spec in ({"maxNumSeqs": 4, "args": ["--log-level", "debug"]}, {"maxNumSeqs": 16, "args": None}):
        generation = children.deployment(created)["metadata"]["generation"]
        created.kubectl("patch", "mdep", "chat", "--type=merge", "-p", json.dumps({"spec": spec}))
        operator.until(lambda generation=generation: children.deployment(created)["metadata"]["generation"] > generation)
    assert children.deployment(created)["spec"] == before


def test_a_spec_that_is_not_accepted_leaves_the_last_good_children(created: Namespace, operator: Operator):
    before = children.deployment(created)["spec"]
    created.kubectl("patch", "mdep", "chat", "--type=merge", "-p", '{"spec": {"maxNumSeqs": 1024, "maxModelLen": 8192}}')
    operator.until(lambda: created.reason() == "DoesNotFit")
    assert children.deployment(created)["spec"] == before
    assert created.condition("Stalled")["status"] == "True"
    assert created.get()["status"]["observedGeneration"] == 2


def test_a_service_of_somebody_else_is_left_alone(namespace: Namespace, operator: Operator):
    namespace.kubectl("create", "service", "clusterip", "chat", "--tcp=80:80")
    before = children.service(namespace)
    namespace.create(**SMALL)
    operator.until(lambda: namespace.reason() == "NameConflict")
    assert children.service(namespace) == before
    namespace.kubectl("delete", "service", "chat")
    operator.until(lambda: children.deployment(namespace))


def test_what_an_earlier_resource_left_is_waited_for_and_after_a_while_told(created: Namespace, operator: Operator):
    """No garbage collector runs here: the children stay, as one that a finalizer holds would."""
    created.kubectl("patch", "service", "chat", "--type=merge", "-p", '{"metadata": {"finalizers": ["test.jitney.dev/held"]}}')
    created.kubectl("delete", "mdep", "chat")
    created.create(**SMALL)
    operator.until(lambda: created.reason() == "NameConflict", 60)
    assert "an earlier ModelDeployment of this name" in created.condition("Accepted")["message"]
    assert "test.jitney.dev/held" in created.condition("Accepted")["message"]
    created.kubectl("patch", "service", "chat", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    created.kubectl("delete", "deployment,service", "chat")
    operator.until(lambda: created.condition("Accepted")["status"] == "True", 60)
    assert children.deployment(created)["metadata"]["ownerReferences"][0]["uid"] == created.get()["metadata"]["uid"]


def test_the_runtimes_last_words_reach_the_resource(created: Namespace, operator: Operator):
    children.make_pod(created)
    # Longer in bytes than an Event may be.
    ended = {"exitCode": 10, "reason": "Error", "message": "ModelNotFound: the hub has no repository x/y" + "\u6a21" * 900}
    children.set_container(created, {"terminated": ended})
    operator.until(lambda: created.reason() == "ModelNotFound")
    operator.until(lambda: "ModelNotFound" in [event["reason"] for event in events_of(created)])
    failure = created.get()["status"]["lastFailure"]
    assert (failure["pod"], failure["exitCode"]) == ("chat-1", 10)
    assert "the hub has no repository x/y" in failure["message"]


def test_failing_again_in_the_same_way_writes_nothing(created: Namespace, operator: Operator):
    children.make_pod(created)
    ended = {"exitCode": 1, "reason": "Error", "message": "CrashLoop: ValueError: no"}
    children.set_container(created, {"terminated": ended})
    operator.until(lambda: created.reason() == "CrashLoop")
    time.sleep(1)
    before = created.get()["metadata"]["resourceVersion"]
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off 20s restarting failed container"}
    for state in ({"waiting": waiting}, {"running": {}}, {"terminated": ended}, {"waiting": waiting | {"message": "back-off 40s"}}):
        children.set_container(created, state, last_state={"terminated": ended})
        time.sleep(0.5)
    assert created.get()["metadata"]["resourceVersion"] == before


def test_a_made_cache_is_a_claim_that_may_grow(namespace: Namespace, operator: Operator):
    namespace.create(**SMALL, cache={"type": "PersistentVolumeClaim", "size": "1Gi"})
    claim = operator.until(lambda: json.loads(namespace.kubectl("get", "pvc", "chat-cache", "-o", "json")))
    assert claim["metadata"]["ownerReferences"][0]["uid"] == namespace.get()["metadata"]["uid"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"
    assert operator.until(lambda: children.deployment(namespace))["spec"]["strategy"] == {"type": "Recreate"}
    operator.until(lambda: namespace.get()["status"]["observedGeneration"] == 1)
    namespace.kubectl("delete", "pvc", "chat-cache", "--wait=false")
    namespace.kubectl("patch", "pvc", "chat-cache", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    operator.until(
        lambda: json.loads(namespace.kubectl("get", "pvc", "chat-cache", "-o", "json"))["metadata"]["uid"] != claim["metadata"]["uid"]
    )


def test_a_folder_of_the_node_only_where_the_administrator_allows_it(namespace: Namespace, operator: Operator):
    namespace.create(**SMALL, cache={"type": "HostPath", "path": "/etc"})
    operator.until(lambda: namespace.reason() == "NotAllowed")
    assert not namespace.kubectl("get", "deployments", "-o", "name")


def starting(reason: str, progress: str) -> bytes:
    """What a runtime answers at /readyz while it loads."""
    return json.dumps({"status": "starting", "reason": reason, "progress": progress}).encode()


TENTH = starting("Loading", "loading 10 %")


def status_writes(operator: Operator) -> float:
    text = httpx.get(f"http://127.0.0.1:{operator.port}/metrics").text
    return float(re.search(r'writes_total\{what="status"\} (\S+)', text)[1])  # type: ignore[index]


def test_how_far_a_pod_has_come_is_on_the_resource(created: Namespace, operator: Operator):
    address = "127.0.53.7"
    with answering(address, 503, TENTH) as runtime:
        children.make_pod(created)
        children.set_container(created, {"running": {}}, podIP=address, podIPs=[{"ip": address}])
        operator.until(lambda: created.reason() == "Loading")
        assert created.get()["status"]["progress"] == "loading 10 %"
        assert created.condition("ModelLoaded")["reason"] == "Loading"
        begun, before = time.monotonic(), status_writes(operator)
        for percent in range(20, 60):
            runtime.body = starting("Loading", f"loading {percent} %")
            time.sleep(0.1)
        operator.until(lambda: created.get()["status"]["progress"] == "loading 59 %")
        assert status_writes(operator) - before <= 1 + (time.monotonic() - begun) / 5, "40 lines, and one write in 5 s"
        runtime.body = starting("WarmingUp", "warming up")
        operator.until(lambda: created.reason() == "WarmingUp")
        runtime.body = b'{"status": "ready"}'
        operator.until(lambda: created.get()["status"]["progress"] == "waiting for the readiness probe")
        assert created.reason() == "WarmingUp"
        children.finish_rollout(created)
        operator.until(lambda: created.reason() == "Ready")
        assert "progress" not in created.get()["status"]


def test_a_new_operator_goes_on_with_what_was_told(created: Namespace, operator: Operator, plane: ControlPlane, tmp_path: Path):
    """Its first look comes before any pod could be asked, and must not take back how far one has come."""
    address = "127.0.53.9"
    with answering(address, 503, TENTH) as runtime:
        children.make_pod(created)
        children.set_container(created, {"running": {}}, podIP=address, podIPs=[{"ip": address}])
        operator.until(lambda: created.get()["status"].get("progress") == "loading 10 %")
        operator.until(lambda: [event["reason"] for event in events_of(created)] == ["Pending", "Loading"])
        operator.process.terminate()
        operator.process.wait(20)
        version, runtime.asked = created.get()["metadata"]["resourceVersion"], 0
        with Operator(plane.kubeconfig, created.name, tmp_path / "second.log", identity="second") as second:
            second.until(lambda: runtime.asked >= 3)
        assert created.get()["metadata"]["resourceVersion"] == version
        assert [event["reason"] for event in events_of(created)] == ["Pending", "Loading"]


@pytest.mark.parametrize("body", ["[" * 4096, '{"status": "starting", "reason": []}', "{}", "7", "", "\xff"])
def test_a_pod_that_answers_nonsense_troubles_nobody(created: Namespace, operator: Operator, body: str):
    address = "127.0.53.8"
    with answering(address, 503, TENTH) as runtime:
        runtime.body = body.encode("latin-1")
        children.make_pod(created)
        children.set_container(created, {"running": {}}, podIP=address, podIPs=[{"ip": address}])
        operator.until(lambda: runtime.asked > 1)
        created.kubectl("scale", "mdep", "chat", "--replicas=2")
        operator.until(lambda: children.deployment(created)["spec"]["replicas"] == 2)


def test_one_event_for_each_transition(created: Namespace, operator: Operator):
    children.make_pod(created)
    ended = {"exitCode": 10, "reason": "Error", "message": "ModelNotFound: the hub has no repository x/y"}
    for _ in range(3):
        children.set_container(created, {"terminated": ended})
        children.set_container(created, {"running": {}}, last_state={"terminated": ended})
    operator.until(lambda: created.reason() == "ModelNotFound")
    children.finish_rollout(created)
    operator.until(lambda: created.reason() == "Ready")
    events = operator.until(lambda: [event for event in events_of(created) if "Ready" in [found["reason"] for found in events_of(created)]])
    pending, failed, ready = ("Pending", "Normal"), ("ModelNotFound", "Warning"), ("Ready", "Normal")
    # Between two writes of this test the pod is ready and its Deployment does not say so yet, which the operator may see, once.
    told = [(event["reason"], event["type"]) for event in events]
    assert told in ([pending, failed, ready], [pending, failed, ("RollingOut", "Normal"), ready])
    described = created.kubectl("describe", "mdep", "chat")
    assert "the hub has no repository x/y" in described.split("Events:")[1]


def test_what_changes_while_ready_stays_is_told_too(created: Namespace, operator: Operator):
    """A rollout that runs out of time: the word is that of its cause, before and after."""
    children.make_pod(created)
    children.set_container(created, {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})
    operator.until(lambda: created.reason() == "ImagePullError")
    said = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    verdict = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": ""}
    status = {"observedGeneration": 1, "conditions": [verdict | {"lastUpdateTime": said, "lastTransitionTime": said}]}
    created.kubectl("patch", "deployment", "chat", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    operator.until(lambda: created.condition("Progressing")["reason"] == "DeadlineExceeded")
    assert created.reason() == "ImagePullError"
    operator.until(lambda: "DeadlineExceeded" in [event["reason"] for event in events_of(created)])
    events = events_of(created)
    told = [("Pending", "Normal"), ("ImagePullError", "Warning"), ("DeadlineExceeded", "Warning")]
    assert [(event["reason"], event["type"]) for event in events] == told
    assert events[-1]["note"] == created.condition("Stalled")["message"]
    assert "cannot be pulled" in events[-1]["note"]


def events_of(namespace: Namespace) -> list[dict[str, Any]]:
    """Ours: the API server tells of Services whose addresses it looks after, too."""
    found = json.loads(namespace.kubectl("get", "events.events.k8s.io", "-o", "json"))["items"]
    return sorted((event for event in found if event["regarding"]["kind"] == "ModelDeployment"), key=lambda event: event["eventTime"])


def test_health_and_metrics(created: Namespace, operator: Operator):
    url = f"http://127.0.0.1:{operator.port}"
    operator.until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
    assert httpx.get(f"{url}/livez").status_code == 200
    text = httpx.get(f"{url}/metrics").text
    assert "jitney_operator_leader 1.0" in text
    assert 'jitney_operator_writes_total{what="Deployment"} 1.0' in text


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("profiles: {cpu: {memory: lots}}", "profile cpu: memory"),
        ("profile: {}", "unknown field profile"),
        ("profiles: {cpu: {memory: 1Gi, gpu: 2}}", "profile cpu: unknown field gpu"),
        ("profiles: {a: {memory: 1Gi}}\ndefaultProfile: b", "defaultProfile b is not one of the profiles: a"),
        ("[", "cannot be read"),
        ("profiles:", "profiles must name at least one"),
        ("profiles: []", "profiles must name at least one"),
        ("profiles: [cpu]", "profiles must be a mapping"),
        ("profiles: {cpu: 5}", "profile cpu: must be a mapping"),
        ("profiles: {cpu: {memory: 1Gi, gpus: two}}", "profile cpu: gpus must be a whole number, not 'two'"),
        ("profiles: {cpu: {memory: 1Gi, requests: 3}}", "profile cpu: requests must be a mapping, not 3"),
        ("profiles: {cpu: {memory: 1Gi}}\nallow: {hostPaths: [models]}", "hostPaths must be absolute, not models"),
        ("profiles: {cpu: {memory: 1Gi}}\nallow: {image: []}", "allow: unknown field image"),
        ("profiles: {cpu: {memory: 1Gi}}\nallow: {trustRemoteCode: maybe}", "trustRemoteCode must be true or false, not 'maybe'"),
        (
            "profiles: {pppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppppp: {memory: 1Gi}}",
            "its name must have 1 to 63 characters",
        ),
        ("profiles: {cpu: {memory: 1Gi}}\nwakeNamespaces: team", "wakeNamespaces must be a list of strings, not 'team'"),
        (
            "profiles: {cpu: {memory: 1Gi}}\nhubEndpoint: hub.example",
            "hubEndpoint must be a URL such as https://hub.example, not 'hub.example'",
        ),
        ("profiles: {cpu: {memory: 1Gi}}\ncatalogue: {x: 5}", "catalogue: x must map sizes in billions to models, not be 5"),
        ("profiles: {cpu: {memory: 1Gi}}\ncatalogue: {x: {big: {}}}", "catalogue: x, size big: a size is in billions"),
        ("profiles: {cpu: {memory: 1Gi}}\ncatalogue: {x: {4: {repository: a/b}}}", "catalogue: x, size 4: parameters is missing"),
    ],
)
def test_a_configuration_that_cannot_be_used_ends_it_with_a_sentence(tmp_path: Path, plane: ControlPlane, config: str, said: str):
    file = tmp_path / "config.yaml"
    file.write_text(config)
    operator = Operator(plane.kubeconfig, "default", tmp_path / "log", JITNEY_CONFIG=str(file))
    with operator:
        assert operator.process.wait(20) == 2
    assert said in operator.log.read_text()
