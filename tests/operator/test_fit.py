"""The estimate against figures worked out by hand, and advice that would really fit."""

from __future__ import annotations

import dataclasses
import re

import pytest

from jitney_operator import fit
from jitney_operator.catalogue import Catalogue
from jitney_operator.errors import Rejected
from jitney_operator.fit import Request
from jitney_operator.quantities import gib

GIB = 1024**3
CATALOGUE = Catalogue.read()
SMOLLM2 = CATALOGUE.find("smollm2-instruct", "0.135")


@pytest.mark.parametrize(("device", "width"), [("cpu", 4), ("cuda", 2)])
def test_weights_and_keys_and_values_are_counted_in_the_runtimes_dtype(device: str, width: int):
    found = fit.estimate(SMOLLM2, device, max_num_seqs=16, max_model_len=2048)
    # Its vocabulary of 49,152 tokens is tied, and once more in memory where it is packed.
    assert found.weights == (SMOLLM2.parameters + (49_152 * 576 if device == "cpu" else 0)) * width
    # SmolLM2-135M: 30 layers, 3 key heads of 64.
    assert found.kv_cache == 16 * 2048 * 2 * 30 * 3 * 64 * width


@pytest.mark.parametrize(("quantization", "bits"), [("int8", 8), ("int4", 5)])
def test_quantized_are_the_linear_layers(quantization: str, bits: int):
    found = fit.estimate(SMOLLM2, "cpu", 16, 2048, quantization)
    table, layers = 49_152 * 576, SMOLLM2.parameters - 49_152 * 576
    # What scores the vocabulary is a copy of the table, int8 in both, and the table itself bfloat16.
    assert found.weights == pytest.approx(layers * bits / 8 + table + 2 * table, rel=0.01)
    assert found.kv_cache == 16 * 2048 * 2 * 30 * 3 * 64 * 2
    assert found.overhead == fit.OVERHEAD_FLOOR + int(found.weights * fit.OVERHEAD_SHARE)


def test_what_no_quantization_makes_smaller_is_counted_as_it_is():
    experts = CATALOGUE.find("qwen3", "30")
    assert fit.weight_bytes(experts, "cpu", "int4") > 0.9 * fit.weight_bytes(experts, "cpu")
    gemma = CATALOGUE.find("gemma-3-1b-it", None)
    assert fit.weight_bytes(gemma, "cpu", "int8") > 4 * 262_144 * 1152 + gemma.parameters


def test_a_model_whose_vocabulary_is_not_told_is_not_counted_too_small():
    known = CATALOGUE.find("qwen2.5-instruct", "7")
    told = fit.weight_bytes(dataclasses.replace(known, scores=0, table=0), "cpu", "int8")
    assert fit.weight_bytes(known, "cpu", "int8") < told == 2 * known.parameters


def test_a_mixture_of_experts_that_does_not_tell_their_size_is_not_counted_too_small():
    """`experts` was an entry's own business before: it must not stop the operator."""
    plain = {"repository": "a/b", "parameters": 10**10, "layers": 8, "kvHeads": 2, "headDim": 64, "context": 4096}
    sizes = {"1": plain, "2": plain | {"experts": 0}, "3": plain | {"experts": 8}}
    own = Catalogue.read({"ours": sizes})
    whole, none, mixture = (fit.weight_bytes(own.find("ours", size), "cpu", "int4") for size in sizes)
    assert whole == none == 2 * 10**10
    assert mixture == 4 * 10**10


def asked(max_num_seqs: int, max_model_len: int | None = None, quantization: str = "none") -> Request:
    return Request(SMOLLM2, max_num_seqs, max_model_len, quantization)


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


def test_the_quantization_that_would_do_is_named_with_its_figures():
    least = {quantization: asked(1, 8192, quantization).wish("cpu") for quantization in ("none", "int8", "int4")}
    assert quantization_named("none", least["int8"].total) == f"int8 ({gib(least['int8'].total)}, weights {gib(least['int8'].weights)})"
    assert quantization_named("none", least["int8"].total - 1).startswith("int4 (")
    assert quantization_named("none", least["int4"].total - 1) == ""
    assert quantization_named("int8", least["int8"].total - 1).startswith("int4 (")
    assert quantization_named("int4", least["int4"].total - 1) == ""


def quantization_named(asked_for: str, memory: int) -> str:
    """Among the ways out, on a CPU; a GPU of as much names none."""
    request = asked(1, 8192, asked_for)
    assert "quantization" not in fit.refusal(request, "cuda", memory, ()).message
    found = re.search(r"What would fit: .*quantization (.*?\))", fit.refusal(request, "cpu", memory, (), memory).message)
    return found[1] if found else ""


def test_a_window_beyond_the_models_helps_nobody():
    with pytest.raises(Rejected, match="set at most 8192"):
        asked(1, 9000).check()
