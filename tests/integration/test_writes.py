"""How often the operator asks and writes, counted by the API server's audit log and by a proxy in between."""

from __future__ import annotations

import json
import time
from pathlib import Path

from cluster.control_plane import ControlPlane
from support import children
from support.namespaces import Namespace
from support.operator import Operator
from support.proxy import GONE, Proxy, once

ONCE = ["deployments", "modeldeployments", "persistentvolumeclaims", "pods", "services"]
SMALL = {"model": "smollm2-instruct", "size": "0.135"}


def writes(plane: ControlPlane, namespace: str) -> list[str]:
    """Verb and path of what the operator wrote there; its lease and Events do not count."""
    events = [json.loads(line) for line in plane.audit_log.read_text().splitlines()]
    return [
        f"{event['verb']} {event['requestURI']}"
        for event in events
        if event.get("userAgent") == "jitney-operator"
        and event["verb"] in ("create", "update", "patch", "delete")
        and event.get("objectRef", {}).get("namespace") == namespace
        and event["objectRef"].get("resource") not in ("leases", "events")
    ]


def test_few_writes_to_ready_and_none_after_a_restart(plane: ControlPlane, namespace: Namespace, tmp_path: Path):
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log") as operator:
        namespace.create(**SMALL)
        operator.until(lambda: children.deployment(namespace))
        children.finish_rollout(namespace)
        operator.until(lambda: namespace.get()["status"]["reason"] == "Ready")
    before, made = namespace.versions(), writes(plane, namespace.name)
    assert len(before) == 3
    assert 3 <= len(made) <= 8, made
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log"):
        time.sleep(5)
    assert namespace.versions() == before
    assert writes(plane, namespace.name) == made


def test_an_upgraded_operator_touches_no_child_of_an_accepted_generation(plane: ControlPlane, namespace: Namespace, tmp_path: Path):
    """Its new runtime image is for the generations to come."""
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log", JITNEY_CONFIG=configuration(tmp_path, "x:1")) as operator:
        namespace.create(**SMALL)
        operator.until(lambda: children.deployment(namespace))
        children.finish_rollout(namespace)
        operator.until(lambda: namespace.reason() == "Ready")
    before, made = namespace.versions(), writes(plane, namespace.name)
    with Operator(plane.kubeconfig, namespace.name, tmp_path / "log", JITNEY_CONFIG=configuration(tmp_path, "x:2")) as operator:
        # A write would come with the first look, which the creation of another resource comes after.
        namespace.create("newer", **SMALL)
        operator.until(lambda: image(namespace, "newer") == "x:2")
        time.sleep(2)
        after = namespace.versions()
        assert {name: after[name] for name in before} == before
        assert not [write for write in writes(plane, namespace.name)[len(made) :] if "/chat" in write]
        namespace.update(maxNumSeqs=4)
        operator.until(lambda: image(namespace, "chat") == "x:2")


def configuration(folder: Path, image: str) -> str:
    """The path of a configuration with this runtime image."""
    path = folder / f"{image}.json"
    path.write_text(json.dumps({"runtimeImage": image, "profiles": {"cpu": {"memory": "4Gi"}}}))
    return str(path)


def image(namespace: Namespace, name: str) -> str:
    return str(children.deployment(namespace, name)["spec"]["template"]["spec"]["containers"][0]["image"])


def test_a_look_at_what_is_as_it_should_be_asks_nothing_and_a_resync_lists_each_kind_once(
    plane: ControlPlane, namespace: Namespace, tmp_path: Path
):
    names = [f"chat-{number}" for number in range(20)]
    with Proxy(plane, tmp_path) as proxy, Operator(proxy.kubeconfig, namespace.name, tmp_path / "log") as operator:
        for name in names:
            namespace.create(name, **SMALL)
        operator.until(lambda: all(namespace.get(name)["status"]["observedGeneration"] == 1 for name in names), 60)
        time.sleep(1)
        begun = time.monotonic()
        # Something that concerns nobody's spec: every resource is looked at, and nothing has to be done.
        namespace.kubectl("annotate", "deployments", "--all", "team.example/seen=yes")
        time.sleep(3)
        assert [str(seen) for seen in proxy.since(begun) if seen.plural != "leases"] == []
        begun = time.monotonic()
        proxy.rule = once("services", GONE)
        proxy.cut("services")
        operator.until(lambda: {seen.plural for seen in proxy.since(begun) if seen.lists} >= {"pods", "modeldeployments"})
        time.sleep(2)
        lists = [seen.plural for seen in proxy.since(begun) if seen.lists]
        assert sorted(lists) == [*ONCE, "services"], "one for each kind, and the watch's own"
        assert not [str(seen) for seen in proxy.since(begun) if seen.writes]
