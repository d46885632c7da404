"""The operator between a failing network and a failing server: it ends where it would have ended without the trouble, and does not rage.

Requests are counted by a proxy, never timed.
"""

from __future__ import annotations

import json
import signal
import time
from itertools import takewhile
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane
from support import children
from support.namespaces import Namespace
from support.operator import Operator
from support.proxy import GONE, Answer, Proxy, Rule, Seen, Silence, Stream, Then, once

SMALL = {"model": "smollm2-instruct", "size": "0.135"}
WATCHED = {"modeldeployments", "deployments", "services", "pods"}


def starting(proxy: Proxy, namespace: Namespace, folder: Path, identity: str = "operator") -> Operator:
    return Operator(proxy.kubeconfig, namespace.name, folder / f"{identity}.log", identity)


def holder(namespace: Namespace) -> str:
    lease = json.loads(namespace.kubectl("get", "lease", "jitney-operator", "-o", "json"))
    return str(lease["spec"].get("holderIdentity", "")).split("_")[0]


def test_killed_after_each_write_it_ends_at_the_same_state(proxy: Proxy, namespace: Namespace, tmp_path: Path):
    with starting(proxy, namespace, tmp_path) as operator:
        namespace.create("reference", **SMALL)
        operator.until(lambda: any("/events" in write for write in proxy.writes()))
    writes = len(proxy.writes())
    assert writes == 4, "a Service, a Deployment, a status, an Event"
    for position in range(1, writes + 1):
        assert killed_after(position, proxy, namespace, tmp_path), f"there was no write {position}"
        with starting(proxy, namespace, tmp_path) as operator:
            # Dead without a word it still holds the lease, for 15 seconds that the test need not wait.
            namespace.kubectl("delete", "lease", "jitney-operator")
            operator.until(lambda: holder(namespace) == "operator" and children.settled(namespace))
        assert shape(namespace, "chat") == shape(namespace, "reference"), f"killed after write {position}"
        assert len(json.loads(namespace.kubectl("get", "deployments,services", "-o", "json"))["items"]) == 4
        namespace.kubectl("delete", "mdep/chat", "deployment/chat", "service/chat")


def shape(namespace: Namespace, name: str) -> list[object]:
    """What must not depend on the way that led there: the children's specs and the conditions, with the resource's name taken out."""
    deployment, service = children.deployment(namespace, name), children.service(namespace, name)
    del deployment["spec"]["template"]["metadata"]["annotations"]
    ports = [{key: port[key] for key in ("name", "port", "targetPort")} for port in service["spec"]["ports"]]
    conditions = [{**entry, "lastTransitionTime": ""} for entry in namespace.get(name)["status"]["conditions"]]
    return [json.loads(json.dumps(part).replace(f'"{name}"', '"NAME"')) for part in (deployment["spec"], ports, conditions)]


def killed_after(position: int, proxy: Proxy, namespace: Namespace, folder: Path) -> bool:
    """An operator that dies as soon as the server has carried out its write number `position`."""
    with starting(proxy, namespace, folder) as operator:
        count = 0

        def rule(seen: Seen) -> Then | None:
            nonlocal count
            count += seen.writes
            return Then(operator.process.kill) if seen.writes and count == position else None

        operator.until(lambda: holder(namespace) == "operator")
        proxy.rule = rule
        namespace.create(**SMALL)
        operator.until(lambda: operator.process.poll() is not None)
        proxy.rule = None
        return operator.process.returncode == -signal.SIGKILL


def first_refused(answer: Answer) -> Rule:
    """Each path's first write is answered so."""
    refused: set[str] = set()

    def rule(seen: Seen) -> Answer | None:
        if not seen.writes or seen.path in refused:
            return None
        refused.add(seen.path)
        return answer

    return rule


def refused_for(seconds: float, answer: Answer, plural: str | None = None) -> Rule:
    end = time.monotonic() + seconds
    return lambda seen: answer if time.monotonic() < end and seen.plural != "leases" and plural in (None, seen.plural) else None


@pytest.mark.parametrize(
    "rule",
    [
        first_refused(Answer(409)),
        first_refused(Answer(429, {"Retry-After": "1"})),
        first_refused(Answer(429)),
        first_refused(Answer(500)),
        first_refused(Answer(503, {"Retry-After": "soon"})),
    ],
    ids=["409", "429 with Retry-After", "429", "500", "503 with a strange Retry-After"],
)
def test_a_refused_write_is_made_later(rule: Rule, proxy: Proxy, namespace: Namespace, tmp_path: Path):
    proxy.rule = rule
    with starting(proxy, namespace, tmp_path) as operator:
        namespace.create(**SMALL)
        operator.until(lambda: children.settled(namespace))


def test_a_server_that_fails_for_a_while(proxy: Proxy, namespace: Namespace, tmp_path: Path):
    with starting(proxy, namespace, tmp_path) as operator:
        operator.until(lambda: holder(namespace) == "operator")
        proxy.rule = refused_for(5, Answer(500))
        namespace.create(**SMALL)
        operator.until(lambda: children.settled(namespace), 40)


def test_a_right_that_is_taken_away_and_given_back(proxy: Proxy, namespace: Namespace, tmp_path: Path):
    with starting(proxy, namespace, tmp_path) as operator:
        operator.until(lambda: holder(namespace) == "operator")
        proxy.rule = refused_for(4, Answer(403), "deployments")
        namespace.create(**SMALL)
        operator.until(lambda: children.settled(namespace), 40)
    refused = [seen for seen in proxy.seen if seen.writes and seen.plural == "deployments"]
    assert len(refused) < 12, "refused writes are not repeated without pause"


def closed_at_once(seen: Seen) -> Stream | None:
    return Stream() if seen.watches else None


def gone_in_the_stream(seen: Seen) -> Stream | None:
    return GONE if seen.watches else None


def gone_as_status(seen: Seen) -> Answer | None:
    return Answer(410) if seen.watches else None


@pytest.mark.parametrize("rule", [closed_at_once, gone_in_the_stream, gone_as_status])
def test_a_watch_that_never_stays_open(rule: Rule, proxy: Proxy, namespace: Namespace, tmp_path: Path):
    """At most one watch a second and kind. Where the server says that it forgot (410), listings bring what watches cannot."""
    proxy.rule = rule
    with starting(proxy, namespace, tmp_path) as operator:
        operator.until(lambda: any(seen.watches for seen in proxy.seen))
        begun = time.monotonic()
        if rule is not closed_at_once:
            namespace.create(**SMALL)
            operator.until(lambda: children.settled(namespace), 40)
        time.sleep(max(0.0, begun + 6 - time.monotonic()))
        seconds = time.monotonic() - begun
        for plural in WATCHED:
            watches = [seen for seen in proxy.since(begun) if seen.watches and seen.plural == plural]
            assert len(watches) <= seconds + 1, f"{len(watches)} watches of {plural} in {seconds:.0f} s"


def test_what_was_deleted_while_nobody_watched_is_noticed(proxy: Proxy, namespace: Namespace, tmp_path: Path):
    with starting(proxy, namespace, tmp_path) as operator:
        namespace.create(**SMALL)
        operator.until(lambda: children.settled(namespace))
        before = children.deployment(namespace)["metadata"]["uid"]
        # The open watch is cut by the restart of its kind's stream; from then on nothing gets through until the deletion is past.
        proxy.rule = lambda seen: Answer(503) if seen.plural == "deployments" and seen.method == "GET" else None
        proxy.cut("deployments")
        namespace.kubectl("delete", "deployment", "chat")
        proxy.rule = once("deployments", GONE)
        operator.until(lambda: children.deployment(namespace)["metadata"]["uid"] != before, 40)


def test_a_standby_takes_over_when_the_leader_is_killed(proxy: Proxy, namespace: Namespace, tmp_path: Path):
    with starting(proxy, namespace, tmp_path, "first") as first, starting(proxy, namespace, tmp_path, "second") as second:
        leader, standby = leading(first, second, namespace)
        namespace.create(**SMALL)
        leader.until(lambda: children.settled(namespace))
        leader.kill()
        killed = time.monotonic()
        namespace.kubectl("scale", "mdep", "chat", "--replicas=3")
        standby.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 3, 40)
        assert time.monotonic() - killed > 5, "the lease was not waited for"
        # At most one in 2 seconds, and a record is old after 15.
        assert looks(proxy, killed) <= 10, "the lease was waited for too long"


def test_a_leader_that_leaves_hands_over_at_once(proxy: Proxy, namespace: Namespace, tmp_path: Path):
    with starting(proxy, namespace, tmp_path, "first") as first, starting(proxy, namespace, tmp_path, "second") as second:
        leader, standby = leading(first, second, namespace)
        leader.process.terminate()
        assert leader.process.wait(20) == 0
        left = time.monotonic()
        assert holder(namespace) in ("", "second" if leader is first else "first"), "the lease was not given back"
        namespace.create(**SMALL)
        standby.until(lambda: children.settled(namespace))
        assert looks(proxy, left) <= 3, "a lease that was given back was waited for"


def looks(proxy: Proxy, moment: float) -> int:
    """How often the one that is left has asked for the lease, until it took it."""
    asked = [seen.method for seen in proxy.since(moment) if seen.plural == "leases"]
    return len(list(takewhile(lambda method: method == "GET", asked)))


def test_a_lease_is_neither_lost_nor_kept_by_one_request(proxy: Proxy, namespace: Namespace, tmp_path: Path):
    """One that hangs, and at the end one that comes in between while it is given back."""
    answered: list[Seen] = []

    def hangs(seen: Seen) -> Silence | None:
        if seen.plural != "leases" or answered:
            return None
        answered.append(seen)
        return Silence()

    def came_in_between(seen: Seen) -> Answer | None:
        if seen.plural != "leases" or seen.method != "PUT" or len(answered) > 1:
            return None
        answered.append(seen)
        return Answer(409)

    with starting(proxy, namespace, tmp_path) as operator:
        operator.until(lambda: holder(namespace) == "operator")
        proxy.rule = hangs
        operator.until(lambda: "no answer within" in operator.log.read_text())
        since = time.monotonic()
        operator.until(lambda: [seen for seen in proxy.since(since) if seen.plural == "leases" and seen.method == "PUT"])
        proxy.rule = came_in_between
        operator.process.terminate()
        assert operator.process.wait(20) == 0
        assert len(answered) == 2
        assert "lost" not in operator.log.read_text()
    assert holder(namespace) == ""


def test_a_leader_that_was_asleep_writes_nothing_when_it_wakes(plane: ControlPlane, namespace: Namespace, tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        Proxy(plane, tmp_path / "a") as one,
        Proxy(plane, tmp_path / "b") as two,
        starting(one, namespace, tmp_path, "first") as first,
        starting(two, namespace, tmp_path, "second") as second,
    ):
        leader, standby = leading(first, second, namespace)
        its_proxy = one if leader is first else two
        namespace.create(**SMALL)
        leader.until(lambda: children.settled(namespace))
        leader.process.send_signal(signal.SIGSTOP)
        namespace.kubectl("scale", "mdep", "chat", "--replicas=3")
        standby.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 3, 40)
        woken = time.monotonic()
        leader.process.send_signal(signal.SIGCONT)
        namespace.kubectl("scale", "mdep", "chat", "--replicas=4")
        standby.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 4)
        time.sleep(3)
        assert not [seen for seen in its_proxy.since(woken) if seen.writes]


def leading(first: Operator, second: Operator, namespace: Namespace) -> tuple[Operator, Operator]:
    """The two, leader first, once there is one."""
    name = first.until(lambda: holder(namespace))
    return (first, second) if name == "first" else (second, first)
