"""One real etcd and kube-apiserver for the session, a namespace of its own for each test."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import binaries
from cluster.control_plane import ControlPlane
from support.namespaces import Namespace

CRD = Path(__file__).parents[2] / "crds" / "serving.jitney.dev_modeldeployments.yaml"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    binaries.build((binaries.KUBERNETES,))
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as plane:
        plane.kubectl("apply", "--server-side", "-f", str(CRD))
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(CRD))
        yield plane


@pytest.fixture
def namespace(plane: ControlPlane) -> Namespace:
    name = f"test-{next(_numbers)}"
    plane.kubectl("create", "namespace", name)
    return Namespace(plane, name)
