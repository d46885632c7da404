"""The estimate against figures worked out by hand, and advice that would really fit."""

from __future__ import annotations

import re

import pytest

from jitney_operator import fit
from jitney_operator.catalogue import Catalogue
from jitney_operator.errors import Rejected
from jitney_operator.fit import Request

GIB = 1024**3
SMOLLM2 = Catalogue.read().find("smollm2-instruct", "0.135")


@pytest.mark.parametrize(("device", "width"), [("cpu", 4), ("cuda", 2)])
def test_weights_and_keys_and_values_are_counted_in_the_runtimes_dtype(device: str, width: int):
    found = fit.estimate(SMOLLM2, device, max_num_seqs=16, max_model_len=2048)
    # Its vocabulary of 49,152 tokens is tied, and once more in memory where it is packed.
    assert found.weights == (SMOLLM2.parameters + (49_152 * 576 if device == "cpu" else 0)) * width
    # SmolLM2-135M: 30 layers, 3 key heads of 64.
    assert found.kv_cache == 16 * 2048 * 2 * 30 * 3 * 64 * width


def asked(max_num_seqs: int, max_model_len: int | None = None) -> Request:
    return Request(SMOLLM2, max_num_seqs, max_model_len)


def test_the_window_is_lowered_to_what_fits_when_none_was_asked_for():
    found = fit.within(asked(16), "cpu", 2 * GIB)
    assert found is not None
    assert 512 <= found.max_model_len < SMOLLM2.context
    assert found.total <= 2 * GIB
    assert fit.within(asked(16, 8192), "cpu", 2 * GIB) is None


def test_what_the_advice_names_really_fits():
    refused = fit.refusal(asked(64, 8192), "cpu", 2 * GIB, ("big",))
    assert refused.reason == "DoesNotFit"
    assert "resourceProfile big" in refused.message
    batch = int(re.search(r"maxNumSeqs (\d+)", refused.message)[1])  # type: ignore[index]
    assert fit.within(asked(batch, 8192), "cpu", 2 * GIB) is not None
    assert fit.within(asked(batch + 1, 8192), "cpu", 2 * GIB) is None


def test_int8_is_named_where_it_would_do():
    wish = asked(1, 8192).wish("cpu")
    assert "int8" in fit.refusal(asked(1, 8192), "cpu", wish.total - wish.weights // 2, ()).message
    assert "int8" not in fit.refusal(asked(1, 8192), "cpu", wish.total - wish.weights, ()).message


def test_a_window_beyond_the_models_helps_nobody():
    with pytest.raises(Rejected, match="set at most 8192"):
        asked(1, 9000).check()
