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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("form", ["none", "plain", "narrow", "float32"])
def test_weights_and_keys_and_values_are_counted_in_the_runtimes_dtype(device: str, form: str):
    width = {"none": 2, "plain": 4 if device == "cpu" else 2, "narrow": 2, "float32": 4}[form]
    found = fit.estimate(SMOLLM2, device, 16, 2048, form)
    # Its vocabulary of 49,152 tokens is tied, and once more in memory where it is packed.
    assert found.weights == (SMOLLM2.parameters + (49_152 * 576 if device == "cpu" else 0)) * width
    # SmolLM2-135M: 30 layers, 3 key heads of 64.
    assert found.kv_cache == 16 * 2048 * 2 * 30 * 3 * 64 * width


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(("quantization", "bits"), [("int8", 8), ("int4", 5)])
def test_quantized_are_the_linear_layers(quantization: str, bits: int, device: str):
    found = fit.estimate(SMOLLM2, device, 16, 2048, quantization)
    table, layers = 49_152 * 576, SMOLLM2.parameters - 49_152 * 576
    # Of a small model a CPU keeps 30 value projections, to 3 heads of 64, those from 9 heads, and down projections, from 1,536, in int8.
    delicate = 30 * 576 * ((3 + 9) * 64 + 1536) if device == "cpu" else 0
    # What scores the vocabulary is a copy of the table, int8 in both, and the table itself bfloat16.
    assert found.weights == pytest.approx((layers - delicate) * bits / 8 + delicate + table + 2 * table, rel=0.01)
    assert found.kv_cache == 16 * 2048 * 2 * 30 * 3 * 64 * 2


@pytest.mark.parametrize(("device", "floor"), [("cpu", 0.5625), ("cuda", 1.5)])
@pytest.mark.parametrize("quantization", ["none", *fit.QUANTIZED])
def test_a_gpu_holds_a_context_and_recorded_graphs_besides(device: str, floor: float, quantization: str):
    found = fit.estimate(SMOLLM2, device, 16, 2048, quantization)
    assert found.overhead == floor * GIB + int(found.weights * 0.05)


@pytest.mark.parametrize(("quantization", "width"), [("int8", 1.0), ("int4", 0.5 + 4 / 32)])
def test_seven_billion_weights_on_a_gpu(quantization: str, width: float):
    """Qwen2.5-7B: 152,064 tokens of 3,584, once as a table of bfloat16, and once as scores of int8."""
    vocabulary = 152_064 * 3584
    found = fit.weight_bytes(CATALOGUE.find("qwen2.5-instruct", "7"), "cuda", quantization)
    assert found == pytest.approx((7_615_616_512 - 2 * vocabulary) * width + vocabulary + 2 * vocabulary, rel=0.01)


@pytest.mark.parametrize(("device", "width"), [("cpu", 4), ("cuda", 2)])
def test_what_no_quantization_makes_smaller_is_counted_as_it_is(device: str, width: int):
    experts = CATALOGUE.find("qwen3", "30")
    # 48 layers of 128 experts, each of three matrices of 2,048 x 768, and what chooses.
    kept = 48 * 128 * (3 * 2048 * 768 + 2048)
    assert width * kept < fit.weight_bytes(experts, device, "int4") < width * kept + 3 * (experts.parameters - kept)
    # Without a quantization all the rest is bfloat16.
    assert fit.weight_bytes(experts, device) == width * kept + 2 * (experts.parameters - kept)
    gemma, table = CATALOGUE.find("gemma-3-1b-it", None), 262_144 * 1152
    # Its table, the scores that are a copy of it, and the rest.
    assert fit.weight_bytes(gemma, device, "int8") == pytest.approx(width * table + table + gemma.parameters - table, rel=0.01)
    assert fit.weight_bytes(gemma, device) == width * table + (2 * table if device == "cpu" else 0) + 2 * (gemma.parameters - table)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_model_whose_vocabulary_is_not_told_is_not_counted_too_small(device: str):
    known = CATALOGUE.find("qwen2.5-instruct", "7")
    told = fit.weight_bytes(dataclasses.replace(known, scores=0, table=0), device, "int8")
    assert fit.weight_bytes(known, device, "int8") < told == 2 * known.parameters


def test_a_mixture_of_experts_that_does_not_tell_their_size_is_not_counted_too_small():
    """`experts` was an entry's own business before: it must not stop the operator."""
    plain = {"repository": "a/b", "parameters": 10**10, "layers": 8, "kvHeads": 2, "headDim": 64, "context": 4096}
    sizes = {"1": plain, "2": plain | {"experts": 0}, "3": plain | {"experts": 8}}
    own = Catalogue.read({"ours": sizes})
    for form in ("none", "int4"):
        whole, none, mixture = (fit.weight_bytes(own.find("ours", size), "cpu", form) for size in sizes)
        assert whole == none == 2 * 10**10
        assert mixture == 4 * 10**10
        assert fit.weight_bytes(own.find("ours", "3"), "cuda", form) == 2 * 10**10


def test_weights_are_counted_once_where_all_may_be_experts():
    """The vocabulary is told, and is no part of them."""
    values = {"repository": "a/b", "parameters": 10**9, "layers": 8, "kvHeads": 2, "headDim": 64, "context": 4096, "experts": 8}
    model = Catalogue.read({"ours": {"1": values | {"hidden": 1000, "vocabulary": 10**5}}}).find("ours", None)
    assert fit.weight_bytes(model, "cpu") == 4 * 8 * 10**8 + 2 * 2 * 10**8
    assert fit.weight_bytes(model, "cpu", "float32") == 4 * 10**9
    assert fit.weight_bytes(model, "cuda") == 2 * 10**9


def asked(max_num_seqs: int, max_model_len: int | None = None, form: str = "none") -> Request:
    return Request(SMOLLM2, max_num_seqs, max_model_len, form)


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


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_quantization_that_would_do_is_named_with_its_figures(device: str):
    least = {form: asked(1, 8192, form).wish(device) for form in ("none", "int8", "int4", "float32")}
    figures = f"int8 ({gib(least['int8'].total)}, weights {gib(least['int8'].weights)})"
    assert quantization_named("none", device, least["int8"].total) == figures
    assert quantization_named("none", device, least["int8"].total - 1).startswith("int4 (")
    assert quantization_named("none", device, least["int4"].total - 1) == ""
    assert quantization_named("int8", device, least["int8"].total - 1).startswith("int4 (")
    assert quantization_named("int4", device, least["int4"].total - 1) == ""
    without = "without --dtype float32 or --kernel, in args or env"
    figures = f"none {without} ({gib(least['none'].total)}, weights {gib(least['none'].weights)})"
    assert quantization_named("float32", device, least["float32"].total - 1) == figures
    for pinned in ("float32", "plain", "narrow"):
        assert quantization_named(pinned, device, least["none"].total - 1).startswith(f"int8 {without} (")


def quantization_named(asked_for: str, device: str, memory: int) -> str:
    """Among the ways out."""
    found = re.search(r"What would fit: .*quantization (.*?\))", fit.refusal(asked(1, 8192, asked_for), device, memory, ()).message)
    return found[1] if found else ""


def test_a_window_beyond_the_models_helps_nobody():
    with pytest.raises(Rejected, match="set at most 8192"):
        asked(1, 9000).check()
