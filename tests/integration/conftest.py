"""One real etcd and kube-apiserver for the session, a namespace of its own for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import binaries
from cluster.control_plane import ControlPlane
from support.namespaces import Namespace, define
from support.proxy import Proxy

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    binaries.build((binaries.KUBERNETES,))
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as plane:
        define(plane)
        yield plane


@pytest.fixture
def namespace(plane: ControlPlane) -> Namespace:
    name = f"test-{next(_numbers)}"
    plane.kubectl("create", "namespace", name)
    return Namespace(plane, name)


@pytest.fixture
def proxy(plane: ControlPlane, tmp_path: Path) -> Iterator[Proxy]:
    with Proxy(plane, tmp_path) as proxy:
        yield proxy
