"""The front door of the cluster, from the chart: there for the length of a with block, and reached from this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from cluster.images import GATEWAY
from cluster.kubectl import Kubectl, wait_for
from cluster.local import LocalCluster
from cluster.target import Cluster
from product import installation

# Where it launches models.
HOME = "default"
SERVICE = "jitney-gateway"


@contextmanager
def installed(cluster: Cluster, kubectl: Kubectl, *more: str, **values: str) -> Iterator[str]:
    """Its address, with more of the chart's `gateway` values as helm's --set reads them, and `more` of helm's flags. It launches into
    HOME."""
    if not isinstance(cluster, LocalCluster):
        pytest.skip("only the local cluster's Service addresses are reached from this machine")
    repository, _, tag = cluster.reference(GATEWAY).rpartition(":")
    settings = {"enabled": "true", "image.repository": repository, "image.tag": tag, "namespace": HOME, **values}
    flags = [word for name, value in settings.items() for word in ("--set", f"gateway.{name}={value}")]
    installation.install(cluster, kubectl, installation.VALUES, *flags, *more)
    try:
        service = kubectl.get("service", SERVICE, installation.NAMESPACE) or {}
        url = f"http://{service['spec']['clusterIP']}"
        # Its pods are ready; where the address leads, kube-proxy learns a moment later.
        wait_for(lambda: _answers(url), 30, "an answer from the front door's address")
        yield url
    finally:
        installation.install(cluster, kubectl)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", timeout=5).is_success
    except httpx.TransportError:
        return False
