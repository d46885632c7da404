"""The front door of the cluster, from the chart: there for the length of a with block, and reached from this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster.images import GATEWAY
from cluster.kubectl import Kubectl
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
        yield f"http://{service['spec']['clusterIP']}"
    finally:
        installation.install(cluster, kubectl)
