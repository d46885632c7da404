"""The estimate against figures worked out by hand, and advice that would really fit."""

from __future__ import annotations

import re

import pytest

from jitney_operator import fit
from jitney_operator.catalogue import Catalogue
from jitney_operator.errors import Rejected

GIB = 1024**3
SMOLLM2 = Catalogue.read().find("smollm2-instruct", "0.135")


@pytest.mark.parametrize(("device", "width"), [("cpu", 4), ("cuda", 2)])
def test_weights_and_keys_and_values_are_counted_in_the_runtimes_dtype(device: str, width: int):
    found = fit.estimate(SMOLLM2, device, max_num_seqs=16, max_model_len=2048)
    assert found.weights == SMOLLM2.parameters * width
    # SmolLM2-135M: 30 layers, 3 key heads of 64.
    assert found.kv_cache == 16 * 2048 * 2 * 30 * 3 * 64 * width


def test_the_window_is_lowered_to_what_fits_when_none_was_asked_for():
    found = fit.check(SMOLLM2, "cpu", 2 * GIB, 16, None)
    assert 512 <= found.max_model_len < SMOLLM2.context
    assert found.total <= 2 * GIB


def test_what_the_advice_names_really_fits():
    with pytest.raises(Rejected) as refused:
        fit.check(SMOLLM2, "cpu", 2 * GIB, 64, 8192)
    assert refused.value.reason == "DoesNotFit"
    batch = int(re.search(r"maxNumSeqs (\d+)", str(refused.value))[1])  # type: ignore[index]
    assert fit.check(SMOLLM2, "cpu", 2 * GIB, batch, 8192).total <= 2 * GIB
    with pytest.raises(Rejected):
        fit.check(SMOLLM2, "cpu", 2 * GIB, batch + 1, 8192)
