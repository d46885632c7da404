"""A resource that keeps failing the same way causes no writes, whatever its pod's last words are: counted by independent watches."""

from __future__ import annotations

import pytest
from product.eye import Eye, Seen
from product.repeats import REASONS
from product.situations import LABEL

from cluster.kubectl import Kubectl

RESTARTS = 3
# Four starts, and pauses of 10, 20 and 40 s between them.
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
    states = [found for found in eye.seen("modeldeployments") if _is_at(found, name, repeating)]
    told = next(found for found in states if found.get("status", {}).get("reason") == REASONS[name])
    # Versions of all kinds are of one count. What comes after the last end, such as the rollout's deadline, has other causes.
    last = min(_version(pod) for pod in pods if ended_again(pod))
    meanwhile = [pod for pod in pods if _version(told) < _version(pod) <= last]
    writes = [found for found in states if _version(told) < _version(found) <= last]
    said = told["status"]["lastFailure"]
    print(f"\n{name}: {len(meanwhile)} states of its pod and {len(writes)} writes up to restart {RESTARTS} of {said['message']!r}")
    assert {(pod["metadata"]["name"], pod["metadata"]["uid"]) for pod in pods} == {(said["pod"], pods[0]["metadata"]["uid"])}
    assert set(range(1, RESTARTS + 1)) <= {_restarts(pod) for pod in meanwhile}
    words = {ended["containerID"]: ended.get("message", "") for pod in pods for ended in _ends(pod)}
    assert len(words) > RESTARTS
    if name == "crashing":
        assert len(set(words.values())) == len(words), "they were to differ"
    assert [found["status"] for found in writes] == []


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
