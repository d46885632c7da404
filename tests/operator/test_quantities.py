"""Amounts as Kubernetes writes them, and what is none although the schema lets it through."""

from __future__ import annotations

import pytest

from jitney_operator import drift, quantities


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4Gi", 4 * 1024**3),
        ("1.5k", 1500),
        (7, 7),
        ("1e3", 1000),
        ("1E3", 1000),
        (".5Ki", 512),
        ("500m", 0),
        ("2E", 2 * 10**18),
        ("0e40", 0),
    ],
)
def test_bytes(text: str | int, size: int):
    assert quantities.size(text) == size


@pytest.mark.parametrize("text", ["", "lots", "1e1.5", "1 Gi", "1e999999999", "1e999999", "1e31"])
def test_what_is_no_amount(text: str):
    with pytest.raises(ValueError, match=r"is not a quantity|more than any machine has"):
        quantities.size(text)
    assert not drift.holds({"limits": {"cpu": "2"}}, {"limits": {"cpu": text}}), "the server is asked, and says so"
