"""Families of custom models, field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jitney_gateway.errors import GatewayError
from jitney_gateway.family import Family
from jitney_gateway.launch import Launch

SPEC = {"model_format": "pytorch", "model_size_in_billions": "0_5", "quantization": "none", "model_uri": "file:///models/mine"}
FAMILY = {"model_name": "mine", "model_specs": [SPEC]}
# The form of Xinference's documentation: every field is there, and most ask for nothing.
DOCUMENTED = {
    "version": 2,
    "context_length": 32768,
    "model_name": "custom-qwen-2.5",
    "model_lang": ["en", "zh"],
    "model_ability": ["generate"],
    "model_description": "A description.",
    "model_family": "my-custom-qwen-2.5",
    "model_specs": [
        {**SPEC, "model_id": None, "model_hub": "huggingface", "model_revision": None, "activated_size_in_billions": None},
    ],
    "chat_template": None,
    "stop_token_ids": None,
    "stop": [],
    "reasoning_start_tag": None,
    "cache_config": None,
    "virtualenv": {"packages": [], "inherit_pip_config": True, "index_url": None},
    "tool_parser": None,
    "is_builtin": False,
}


def spec(**fields: Any) -> dict[str, Any]:
    """Of the hub where it says so."""
    kept = {key: value for key, value in SPEC.items() if key != "model_uri" or "model_id" not in fields}
    return {"model_specs": [kept | fields]}


def test_the_documented_form_is_taken_and_told_again():
    family = Family.read(json.dumps(DOCUMENTED))
    assert (family.name, family.context, family.specs[0].size) == ("custom-qwen-2.5", 32768, "0.5")
    assert family.told() == DOCUMENTED


@pytest.mark.parametrize(
    ("fields", "reference"),
    [
        ({"model_uri": "file:///a/b"}, "file:///a/b"),
        ({"model_uri": "/a/b"}, "file:///a/b"),
        ({"model_id": "org/repo"}, "hf://org/repo"),
        ({"model_id": "org/repo", "model_uri": "pvc://claim/a"}, "pvc://claim/a"),
    ],
)
def test_where_the_weights_are(fields: dict[str, Any], reference: str):
    assert Family.parse(FAMILY | spec(**fields)).specs[0].reference == reference


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ({"model_name": "a b"}, "model_name: must be"),
        ({"model_name": "../x"}, "model_name: must be"),
        ({"context_length": "2048"}, "context_length: must be"),
        ({"version": 3}, "version: "),
        ({"model_specs": []}, "model_specs: must be a list of 1"),
        ({"model_specs": ["x"]}, "model_specs[0]: must be"),
        ({"model_ability": ["chat", "tools"]}, "model_ability: only chat and generate are served, not tools"),
        ({"model_lang": "en"}, "model_lang: must be a list"),
        ({"chat_template": "qwen2.5-instruct"}, "chat_template: must be the template's own text, in Jinja, and no other family's name"),
        ({"chat_template": 5}, "chat_template: must be the template's own text"),
        ({"chat_template": "{{ x }}\0"}, "chat_template: must be at most 32000 characters"),
        ({"chat_template": "{{ x }}" + "x" * 32_000}, "leave it out, and the template in the model's own folder"),
        ({"chat_template": "{{ x }}" + "$(" * 40}, "chat_template: must be at most 32000 characters, few dollar signs"),
        ({"stop": "x" * 129}, "stop: must be a list of at most 16 texts of 1 to 128 characters"),
        ({"stop": [""]}, "stop: must be a list"),
        ({"stop": ["a"] * 17}, "stop: must be a list"),
        ({"stop": {"a": 1}}, "stop: must be a list"),
        ({"stop_token_ids": ["1"]}, "stop_token_ids: must be a list of at most 32 token ids"),
        ({"stop_token_ids": [True]}, "stop_token_ids: must be a list"),
        ({"stop_token_ids": [-1]}, "stop_token_ids: must be a list"),
        ({"stop_token_ids": 5}, "stop_token_ids: must be a list"),
        ({"virtualenv": {"packages": ["x"]}}, "virtualenv: models run in the runtime's own environment"),
        ({"color": "red"}, "color: this is no field of a family"),
        (spec(model_format="ggufv2"), "model_specs[0].model_format: checkpoints are read as pytorch, not 'ggufv2'"),
        (spec(model_size_in_billions=None), "model_specs[0].model_size_in_billions: must be"),
        (spec(quantization="Q4_K"), "model_specs[0].quantization: must be of none"),
        (spec(quantizations=["none"]), "model_specs[0].quantizations: quantization says it already"),
        (spec(model_hub="modelscope"), "model_specs[0].model_hub: models come from the Hugging Face hub"),
        (spec(model_uri=None), "model_specs[0].model_uri: give model_uri or model_id"),
        (spec(model_uri="s3://bucket/x"), "model_specs[0].model_uri: must be file:///path"),
        (spec(model_uri="file:///a/../b"), "model_specs[0].model_uri: must be"),
        (spec(model_uri="pvc://c/..//x"), "model_specs[0].model_uri: must be"),
        (spec(model_id="no-repository"), "model_specs[0].model_id: must be a repository"),
        (spec(model_revision="main"), "model_specs[0].model_revision: pins a commit on the hub"),
        (spec(model_file_name_template="x.gguf"), "model_specs[0].model_file_name_template: it belongs to GGUF"),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_name(family: dict[str, Any], words: str):
    with pytest.raises(GatewayError) as refused:
        Family.parse(FAMILY | family)
    assert refused.value.status == 400
    assert words in refused.value.detail


@pytest.mark.parametrize("text", [None, "{", "[]", '{"model_name": "\\ud800"}', "[" * 100_000])
def test_what_is_no_family_is_no_crash(text: Any):
    with pytest.raises(GatewayError, match="model"):
        Family.read(text)


SIZES = {"model_specs": [{**SPEC, "model_size_in_billions": billions, "model_uri": f"/m/{billions}"} for billions in ("0_5", 4)]}


def test_a_launch_gets_what_it_leaves_open():
    mine = Family.parse(FAMILY | spec(model_id="org/repo", model_revision="v1") | {"context_length": 512})
    launch = mine.applied(Launch("mine"))
    assert (launch.model_path, launch.revision, launch.max_model_len, launch.size) == ("hf://org/repo", "v1", 512, "0.5")
    own = mine.applied(Launch("mine", max_model_len=64, revision="v2"))
    assert (own.max_model_len, own.revision) == (64, "v2")
    elsewhere = mine.applied(Launch("mine", model_path="/here"))
    assert (elsewhere.model_path, elsewhere.revision) == ("/here", None)


def test_a_launch_gets_how_answers_are_made():
    said = {"chat_template": "{{ messages }}", "stop": ["<|im_end|>"], "stop_token_ids": [2, 0]}
    for launch in (Launch("mine"), Launch("mine", model_path="/here")):
        found = Family.parse(FAMILY | said).applied(launch)
        assert {"chat_template": found.chat_template, "stop": [*found.stop], "stop_token_ids": [*found.stop_token_ids]} == said
    nothing = Family.parse(FAMILY | {"chat_template": "", "stop": [], "stop_token_ids": None}).applied(Launch("mine"))
    assert (nothing.chat_template, nothing.stop, nothing.stop_token_ids, nothing.of_answers()) == (None, (), (), [])


def test_a_launch_chooses_a_size():
    mine = Family.parse(FAMILY | SIZES)
    assert mine.applied(Launch("mine", size="4")).model_path == "file:///m/4"
    for size, words in ((None, "several sizes; give one of 0.5, 4"), ("7", "mine has no size 7; there are 0.5, 4")):
        with pytest.raises(GatewayError, match=words):
            mine.applied(Launch("mine", size=size))
    with pytest.raises(GatewayError, match="quantization: mine 4 is registered as none, not int8"):
        mine.applied(Launch("mine", size="4", quantization="int8"))


def test_the_older_form_has_a_list_of_quantizations():
    mine = Family.parse(FAMILY | {"model_specs": [{**SPEC, "quantization": None, "quantizations": ["4-bit", "none"]}]})
    assert mine.specs[0].quantizations == ("int4", "none")
    assert mine.applied(Launch("mine", quantization="int4")).quantization == "int4"
