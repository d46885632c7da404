"""Watches that lie, stop or fall silent: what has changed is acted on all the same, and what has not changes nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cluster.control_plane import ControlPlane
from support import children
from support.namespaces import CRD, Namespace, define
from support.operator import Operator
from support.proxy import Proxy, Seen, Silence, Torn, once

SMALL = {"model": "smollm2-instruct", "size": "0.135"}
TOLD = ("modeldeployments", "deployments", "services")


def silent(seen: Seen) -> Silence | None:
    return Silence() if seen.watches else None


def watching(proxy: Proxy) -> bool:
    """What comes now comes as an event, and not with the first listing."""
    return all(proxy.count_watches(plural) for plural in TOLD)


def test_a_watch_that_has_fallen_silent_is_opened_again(proxy: Proxy, namespace: Namespace, tmp_path: Path):
    proxy.rule = silent
    with Operator(proxy.kubeconfig, namespace.name, tmp_path / "log", silence=3) as operator:
        operator.until(lambda: watching(proxy))
        namespace.create(**SMALL)
        proxy.rule = None
        operator.until(lambda: children.settled(namespace))
        proxy.rule = silent
        before = proxy.count_watches("deployments")
        proxy.cut("deployments")
        operator.until(lambda: proxy.count_watches("deployments") > before)
        namespace.kubectl("scale", "deployment", "chat", "--replicas=5")
        proxy.rule = None
        operator.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 1)


def test_what_a_watch_that_lives_did_not_tell_is_found(proxy: Proxy, namespace: Namespace, tmp_path: Path):
    """A change by hand, and a whole new resource: neither reaches the operator as an event."""
    proxy.rule = silent
    with Operator(proxy.kubeconfig, namespace.name, tmp_path / "log", resync=3) as operator:
        operator.until(lambda: watching(proxy))
        namespace.create(**SMALL)
        operator.until(lambda: children.settled(namespace))
        namespace.kubectl("scale", "deployment", "chat", "--replicas=5")
        operator.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 1)
        assert "a Deployment had changed and nobody had said so" in operator.log.read_text()


@pytest.mark.parametrize("proper", [True, False], ids=["ended", "lost"])
def test_a_watch_that_is_cut_in_the_middle_of_a_line(proxy: Proxy, namespace: Namespace, tmp_path: Path, proper: bool):
    """First of resources, where the line tells of a new one, then of Deployments, where it tells that one is gone."""
    proxy.rule = once("modeldeployments", Torn(proper))
    with Operator(proxy.kubeconfig, namespace.name, tmp_path / "log") as operator:
        operator.until(lambda: proxy.count_watches("modeldeployments"))
        namespace.create(**SMALL)
        operator.until(lambda: children.settled(namespace))
        assert proxy.count_watches("modeldeployments") > 1, "the watch was not cut"
        before = children.deployment(namespace)["metadata"]["uid"]
        proxy.rule = once("deployments", Torn(proper))
        count = proxy.count_watches("deployments")
        proxy.cut("deployments")
        operator.until(lambda: proxy.count_watches("deployments") > count)
        namespace.kubectl("delete", "deployment", "chat")
        operator.until(lambda: children.deployment(namespace)["metadata"]["uid"] != before)


def test_events_that_are_told_again_and_backwards_change_nothing(proxy: Proxy, namespace: Namespace, tmp_path: Path):
    """The newest once more, then older and older ones, as a server tells them that has caught up with less than another."""
    with Operator(proxy.kubeconfig, namespace.name, tmp_path / "log") as operator:
        operator.until(lambda: watching(proxy))
        namespace.create(**SMALL)
        operator.until(lambda: children.settled(namespace))
        for replicas in (2, 3):
            namespace.update(replicas=replicas)
            operator.until(lambda replicas=replicas: children.deployment(namespace)["spec"]["replicas"] == replicas)
        children.finish_rollout(namespace)
        # The last that a look does, after the status.
        operator.until(lambda: "Ready" in namespace.kubectl("get", "events.events.k8s.io", "-o", "jsonpath={.items[*].reason}").split())
        time.sleep(1)
        begun = time.monotonic()
        for plural in TOLD:
            assert proxy.tell_again(plural), f"no event of {plural} was told"
        time.sleep(3)
        # Not even one that the server would refuse for its old resourceVersion.
        assert not [str(seen) for seen in proxy.since(begun) if seen.writes]


def test_an_old_event_does_not_bring_back_what_was_deleted(proxy: Proxy, namespace: Namespace, tmp_path: Path):
    with Operator(proxy.kubeconfig, namespace.name, tmp_path / "log") as operator:
        operator.until(lambda: watching(proxy))
        namespace.create(**SMALL)
        operator.until(lambda: children.settled(namespace))
        namespace.kubectl("delete", "modeldeployment", "chat")
        time.sleep(1)
        assert proxy.tell_again("modeldeployments") > 1
        time.sleep(1)
        # Nobody but the operator would make it again.
        namespace.kubectl("delete", "deployment", "chat")
        time.sleep(3)
        assert not namespace.kubectl("get", "deployments", "-o", "name")


def test_the_definition_is_deleted_and_made_again(tmp_path: Path):
    """With a control plane of its own, because everybody else's tests need the definition."""
    with ControlPlane(tmp_path / "plane") as plane:
        define(plane)
        plane.kubectl("create", "namespace", "team")
        namespace = Namespace(plane, "team")
        with Operator(plane.kubeconfig, "team", tmp_path / "log") as operator:
            namespace.create(**SMALL)
            operator.until(lambda: children.settled(namespace))
            plane.kubectl("delete", "-f", str(CRD))
            operator.until(lambda: "definition (CRD) is missing" in operator.log.read_text())
            define(plane)
            namespace.create("again", **SMALL)
            operator.until(lambda: children.settled(namespace, "again"), 60)
