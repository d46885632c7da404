"""How many threads there are, and what torch's own are told before they exist."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jitney_runtime.torch_backend import threads
from jitney_runtime.torch_backend.threads import leave_cores_to_kernels, thread_count


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


@pytest.mark.parametrize(
    ("limit", "count"),
    [("max 100000", 8), ("200000 100000", 2), ("350000 100000", 4), ("50000 100000", 1), ("1600000 100000", 8), ("nonsense", 8), (None, 8)],
)
@pytest.mark.parametrize("version", [2, 1])
def test_threads_are_as_many_as_the_container_may_use(
    version: int, limit: str | None, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Of a machine with 8 cores; a part of a core is rounded, and one thread there is in any case."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    for name in ("_V2", "_V1_QUOTA", "_V1_PERIOD"):
        monkeypatch.setattr(threads, name, tmp_path / name)
    if limit is not None and version == 2:
        (tmp_path / "_V2").write_text(f"{limit}\n")
    elif limit is not None:
        quota, _, period = limit.partition(" ")
        (tmp_path / "_V1_QUOTA").write_text(f"{'-1' if quota == 'max' else quota}\n")
        (tmp_path / "_V1_PERIOD").write_text(f"{period}\n")
    assert thread_count() == count
