"""A resource that keeps failing the same way causes no writes, whatever its pod's last words are: counted by independent watches."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest
from product import installation
from product.eye import Eye, Seen
from product.repeats import DOWNLOADING, REASONS, TAKEN, UNSTARTED, UNWANTED, give_node
from product.situations import LABEL

from cluster.kubectl import Kubectl, wait_for
from cluster.target import Cluster

RESTARTS = 3
# Four starts, and pauses of 10, 20 and 40 s between them. A start that takes too long has 20 s each time.
SECONDS = 400


@pytest.mark.parametrize("name", REASONS)
def test_a_failure_that_repeats_is_written_once(name: str, repeating: str, eye: Eye, kubectl: Kubectl) -> None:
    if not repeating:
        pytest.skip("the pods of another cluster do not reach a hub on this machine")

    def ended_again(pod: Seen) -> bool:
        return _is_of(pod, name, repeating) and _restarts(pod) >= RESTARTS and "running" not in _container(pod)["state"]

    try:
        eye.first("pods", ended_again, SECONDS, f"restart {RESTARTS} of a pod of {name} and its end")
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{kubectl.picture(repeating)}") from error
    pods = [pod for pod in eye.seen("pods") if _is_of(pod, name, repeating)]
    told = _told(eye, name, repeating, REASONS[name])
    # What comes after the last end, such as the rollout's deadline, has other causes.
    last = min(_version(pod) for pod in pods if ended_again(pod))
    meanwhile = [pod for pod in pods if _version(told) < _version(pod) <= last]
    writes = _writes(eye, name, repeating, told, last)
    said = told["status"]["lastFailure"]
    print(f"\n{name}: {len(meanwhile)} states of its pod and {len(writes)} writes up to restart {RESTARTS} of {said['message']!r}")
    assert {(pod["metadata"]["name"], pod["metadata"]["uid"]) for pod in pods} == {(said["pod"], pods[0]["metadata"]["uid"])}
    # What the kubelet stops, it starts again at once: its first end is told when restart 1 runs already.
    first = 2 if name == "slow" else 1
    assert set(range(first, RESTARTS + 1)) <= {_restarts(pod) for pod in meanwhile}
    words = {ended["containerID"]: ended.get("message", "") for pod in pods for ended in _ends(pod)}
    assert len(words) > RESTARTS
    if name == "crashing":
        assert len(set(words.values())) == len(words), "they were to differ"
    if name in DOWNLOADING:
        lines = _heard_after(told, eye, name, repeating)
        print(f"{name}: its processes said meanwhile {lines}")
        # One that has little time may be stopped before its download moves, on a slow machine.
        assert [line for line in lines if name == "slow" or line.startswith("downloading")], "they were to say how far they are"
    assert [found["status"] for found in writes] == []
    # Each start costs the tests that follow seconds of the processor.
    kubectl("delete", "mdep", name, "-n", repeating, "--wait=false")


def test_a_pod_that_its_node_will_not_have_again_is_written_once(repeating: str, eye: Eye, kubectl: Kubectl) -> None:
    """Each time another takes its place: there is none, it is made, it gets the node, it is over."""
    if not repeating:
        pytest.skip("only the local cluster has resources that fail from the beginning on")
    name, reason = UNWANTED

    def is_over(pod: Seen) -> bool:
        return _is_of(pod, name, repeating) and pod["status"].get("phase") == "Failed"

    def next_one() -> Seen | None:
        pods = kubectl.list("pods", repeating, f"--selector={LABEL}={name}")
        return next((pod for pod in pods if pod["status"].get("phase") == "Pending" and "nodeName" not in pod["spec"]), None)

    def over() -> list[Seen]:
        """Each of its pods that is, as it first was."""
        first: dict[str, Seen] = {}
        for pod in filter(is_over, eye.seen("pods")):
            first.setdefault(pod["metadata"]["name"], pod)
        return sorted(first.values(), key=_version)

    for ends in range(1, RESTARTS + 2):
        give_node(kubectl, wait_for(next_one, 60, f"pod {ends} of {name}"))
        wait_for(lambda ends=ends: len(over()) >= ends, 60, f"end {ends} of a pod of {name}")  # type: ignore[misc]
        # So that each state could be told, and not only the last of a burst.
        wait_for(next_one, 60, f"the pod after {ends} of {name}")
        time.sleep(1)
    told, last = _told(eye, name, repeating, reason), over()[-1]
    writes = _writes(eye, name, repeating, told, _version(last))
    print(f"\n{name}: {len(over())} pods over, {len(writes)} writes up to the last, and {told['status']['lastFailure']['message']!r}")
    assert _version(told) < _version(over()[1]), "it was to be told in the first round"
    assert [found["status"] for found in writes] == []
    kubectl("delete", "mdep", name, "-n", repeating, "--wait=false")


def _heard_after(told: Seen, eye: Eye, name: str, namespace: str) -> list[str]:
    """Lines of progress out of the pod's own mouth."""
    since = next(at for at, found in eye.stamped("modeldeployments") if found is told)
    return [found["said"]["progress"] for at, found in eye.stamped("runtimes") if at > since and _is_of(found, name, namespace)]


def _pulls(eye: Eye, pod: str, namespace: str) -> Iterable[Seen]:
    """The pod, each time that it was pulled for in vain: between two pulls the kubelet has another word."""
    states = [found for found in eye.seen("pods") if (found["metadata"]["namespace"], found["metadata"]["name"]) == (namespace, pod)]
    waits = [_container(found).get("state", {}).get("waiting", {}).get("reason") for found in states]
    return [
        states[place] for place, (before, now) in enumerate(pairwise(waits), 1) if (before, now) == ("ImagePullBackOff", "ErrImagePull")
    ]


def _events(reason: str) -> Callable[[Eye, str, str], Iterable[Seen]]:
    """The Event of this reason about the pod, each time that it was told again."""

    def told_again(eye: Eye, pod: str, namespace: str) -> Iterable[Seen]:
        found = [event for event in eye.seen("events") if event["reason"] == reason]
        mine = [event for event in found if (event["involvedObject"]["namespace"], event["involvedObject"]["name"]) == (namespace, pod)]
        return [event for event in mine if max(event.get("count") or 1, (event.get("series") or {}).get("count", 1)) > 1]

    return told_again


# How it is seen that it failed again, and how often. The scheduler tells its second attempt, and counts the later ones for itself.
AGAIN: dict[str, tuple[Callable[[Eye, str, str], Iterable[Seen]], int]] = {
    "pulling": (_pulls, 3),
    "mountless": (_events("FailedMount"), 5),
    "homeless": (_events("FailedScheduling"), 1),
}

# What another cause of the same kind may come before: a node that is asked for a pod's claim at once may not be allowed to read it yet.
CAUSES = {"mountless": "is not a directory"}


@pytest.mark.parametrize("name", UNSTARTED)
def test_what_never_starts_is_written_once(name: str, repeating: str, eye: Eye, kubectl: Kubectl) -> None:
    """However often it is tried, and however the words of one attempt differ from those of the next."""
    if not repeating:
        pytest.skip("the nodes of another cluster do not reach a registry on this machine")
    look, often = AGAIN[name]
    words = CAUSES.get(name, "")

    def is_told(found: Seen) -> bool:
        status = found.get("status", {})
        return _is_at(found, name, repeating) and status.get("reason") == UNSTARTED[name] and words in status["lastFailure"]["message"]

    eye.first("modeldeployments", is_told, 120, f"{UNSTARTED[name]} on {name}")
    told = next(found for found in eye.seen("modeldeployments") if is_told(found))
    pod = told["status"]["lastFailure"]["pod"]

    def again() -> list[int]:
        versions = [_version(found) for found in look(eye, pod, repeating) if _version(found) > _version(told)]
        if name == "homeless" and not versions:
            _make_room(kubectl)
        return versions if len(versions) >= often else []

    versions = wait_for(again, SECONDS, f"repetition {often} of {name}", every=2)
    # What comes later, such as the rollout's deadline, has other causes.
    writes = _writes(eye, name, repeating, told, versions[often - 1])
    print(
        f"\n{name}: {len(versions)} times more, {len(writes)} writes up to time {often}, and {told['status']['lastFailure']['message']!r}"
    )
    if name == "pulling":
        said = [_container(found)["state"]["waiting"]["message"] for found in look(eye, pod, repeating)]
        assert len(set(said)) == len(said), "they were to differ"
    assert [found["status"] for found in writes] == []


def test_a_taken_name_is_written_once(repeating: str, eye: Eye, cluster: Cluster, kubectl: Kubectl) -> None:
    """Nobody tells the operator that a stranger's object has gone: it asks again and again, and asks only."""
    if not repeating:
        pytest.skip("only the local cluster keeps an audit log here")
    name, reason = TAKEN

    def is_told(found: Seen) -> bool:
        return _is_at(found, name, repeating) and found.get("status", {}).get("reason") == reason

    since = eye.first("modeldeployments", is_told, 120, f"{reason} on {name}")
    told = _told(eye, name, repeating, reason)

    def again() -> list[dict[str, Any]]:
        asked = _asked_by_operator(cluster, repeating, name, since)
        return asked if sum(entry["objectRef"]["resource"] == "services" for entry in asked) >= RESTARTS else []

    asked = wait_for(again, 120, f"look {RESTARTS} at who has the name {name}", every=5)
    writes = _writes(eye, name, repeating, told, _version(kubectl.get("mdep", name, repeating) or {}))
    print(f"\n{name}: {len(asked)} requests more and {len(writes)} writes after {told['status']['conditions'][0]['message']!r}")
    assert {entry["verb"] for entry in asked} == {"get"}
    assert [found["status"] for found in writes] == []


def _asked_by_operator(cluster: Cluster, namespace: str, name: str, since: float) -> list[dict[str, Any]]:
    """What it has asked the API server for about objects of this name, once it had told of them; its Event comes right after that. Not what
    it was refused: a test of its rights takes them from it for a moment, and it may say so as far as it can."""
    account = f"system:serviceaccount:{installation.NAMESPACE}:jitney-operator"
    log: Any = cluster
    # Its last line may be half written.
    lines = log.audit_log.read_text().rpartition("\n")[0].splitlines()
    entries = [json.loads(line) for line in lines if account in line and f'"{namespace}"' in line]
    own = [
        entry
        for entry in entries
        if (entry["objectRef"].get("namespace"), entry["objectRef"].get("name")) == (namespace, name)
        and entry.get("responseStatus", {}).get("code", 200) < 400
    ]
    return [entry for entry in own if datetime.fromisoformat(entry["requestReceivedTimestamp"]).timestamp() > since]


@pytest.fixture
def another_node(kubectl: Kubectl, repeating: str) -> Iterator[Callable[[], None]]:
    """A node that nobody runs and no pod may have, from the call on."""
    name = f"none-{repeating}"
    spec = {"unschedulable": True, "taints": [{"key": "jitney.dev/none", "effect": "NoSchedule"}]}
    yield lambda: kubectl.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec})
    kubectl("delete", "node", name, "--ignore-not-found")


def test_how_many_nodes_lack_it_is_kept_true(another_node: Callable[[], None], repeating: str, eye: Eye, kubectl: Kubectl) -> None:
    """The figures in the scheduler's words are news: each change of them is one write, and no new state."""
    if not repeating:
        pytest.skip("the nodes of another cluster are not ours")

    def message() -> str:
        _make_room(kubectl)
        return str((kubectl.get("mdep", "homeless", repeating) or {})["status"]["lastFailure"]["message"])

    wait_for(lambda: "0/1 nodes are available: 1 Insufficient memory" in message(), 60, "first figures")
    before = _version(kubectl.get("mdep", "homeless", repeating) or {})
    another_node()
    others = "0/2 nodes are available: 1 Insufficient memory, 1 node(s) were unschedulable"
    wait_for(lambda: others in message(), 60, "other figures", every=2)
    eye.first("modeldeployments", lambda found: _is_at(found, "homeless", repeating) and others in str(found["status"]), 10, "them too")
    writes = [found for found in eye.seen("modeldeployments") if _is_at(found, "homeless", repeating) and _version(found) > before]
    print(f"\nhomeless: {[found['status']['lastFailure']['message'] for found in writes]}")
    assert len(writes) == 1
    assert writes[0]["status"]["reason"] == UNSTARTED["homeless"]


def _make_room(kubectl: Kubectl) -> None:
    """A pod leaves its node, in a namespace that takes any: the scheduler tries again to place those for which there was none."""
    node = kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
    spec = {"nodeName": node, "containers": [{"name": "none", "image": "registry.invalid/none/such:1"}]}
    kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "leaving", "namespace": "default"}, "spec": spec})
    kubectl("delete", "pod", "leaving", "-n", "default", "--grace-period=0", "--force")


def _told(eye: Eye, name: str, namespace: str, reason: str) -> Seen:
    """The resource as it first said so."""
    states = (found for found in eye.seen("modeldeployments") if _is_at(found, name, namespace))
    return next(found for found in states if found.get("status", {}).get("reason") == reason)


def _writes(eye: Eye, name: str, namespace: str, told: Seen, last: int) -> list[Seen]:
    """Between that and the last repetition; versions of all kinds are of one count."""
    return [found for found in eye.seen("modeldeployments") if _is_at(found, name, namespace) and _version(told) < _version(found) <= last]


def _is_at(found: Seen, name: str, namespace: str) -> bool:
    return (found["metadata"]["namespace"], found["metadata"]["name"]) == (namespace, name)


def _is_of(pod: Seen, name: str, namespace: str) -> bool:
    return (pod["metadata"]["namespace"], pod["metadata"].get("labels", {}).get(LABEL)) == (namespace, name)


def _version(found: Seen) -> int:
    return int(found["metadata"]["resourceVersion"])


def _container(pod: Seen) -> Seen:
    return next(iter(pod["status"].get("containerStatuses") or []), {})


def _ends(pod: Seen) -> list[Seen]:
    """The kubelet may leave out a state, and then tells it as the last one."""
    states = (_container(pod).get("state", {}), _container(pod).get("lastState", {}))
    return [state["terminated"] for state in states if "terminated" in state]


def _restarts(pod: Seen) -> int:
    return int(_container(pod).get("restartCount", 0))
