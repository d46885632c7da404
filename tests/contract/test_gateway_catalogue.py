"""One catalogue, two readers: the operator's and the front door's find the same."""

from __future__ import annotations

import pytest

from jitney_gateway.catalogue import Catalogue as Front
from jitney_gateway.catalogue import Entry
from jitney_operator.catalogue import Catalogue as Operator

ENTRIES = Front.read().entries


def test_there_are_models():
    assert len(ENTRIES) > 60


@pytest.mark.parametrize("entry", ENTRIES, ids=[f"{entry.name} {entry.size}" for entry in ENTRIES])
def test_both_read_the_same(entry: Entry):
    model = Operator.read().find(entry.name, entry.size)
    assert (entry.repository, entry.revision, entry.parameters, entry.context) == (
        model.repository, model.revision, model.parameters, model.context,
    )  # fmt: skip
    assert entry.kv_elements == 2 * model.layers * model.kv_heads * model.head_dim
