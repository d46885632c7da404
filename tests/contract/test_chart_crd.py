"""The chart carries the resource's definition as a byte copy."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
NAME = "serving.jitney.dev_modeldeployments.yaml"


def test_the_charts_copy_is_the_source():
    assert (ROOT / "charts" / "jitney" / "files" / NAME).read_bytes() == (ROOT / "crds" / NAME).read_bytes()
