"""What torch's own threads are told before they exist."""

from __future__ import annotations

import pytest

from jitney_runtime.torch_backend.threads import leave_cores_to_kernels


@pytest.mark.parametrize(
    ("kernel", "environment", "told"),
    [
        ("auto", {}, {"GOMP_SPINCOUNT": "1000"}),
        ("native", {}, {"GOMP_SPINCOUNT": "1000"}),
        ("plain", {}, {}),
        ("onednn", {}, {}),
        ("auto", {"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ("auto", {"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
    ],
)
def test_spinning_is_cut_short_only_beside_our_own_kernels(kernel: str, environment: dict[str, str], told: dict[str, str]):
    leave_cores_to_kernels(kernel, environment)
    assert environment == told
