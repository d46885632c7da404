"""How a custom model is described while it is served: by its family, also when that is forgotten, and on both backends."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from jitney_gateway.family import Family
from jitney_gateway.kubernetes.manifest import DESCRIBED, model_of, resource
from jitney_gateway.launch import Launch
from jitney_gateway.local.state import State
from jitney_gateway.model import LOADING, Model

SPEC = {"model_format": "pytorch", "model_size_in_billions": "0_5", "model_uri": "pvc://claim/mine"}
SAID: dict[str, Any] = {
    "model_ability": ["generate"],
    "model_family": "qwen1.5",
    "model_lang": ["de", "日本"],
    "model_description": "Größe $(X)",
}
NOTHING_SAID = {"model_ability": ["chat", "generate"], "model_family": "mine", "model_lang": ["en"], "model_description": ""}


def applied(**said: Any) -> Launch:
    return Family.parse({"model_name": "mine", "model_specs": [SPEC], **said}).applied(Launch("mine"))


def described(model: Model) -> dict[str, Any]:
    told = model.listed()
    assert told["model_ability"] == model.instance()["model_ability"]
    return {key: told[key] for key in SAID}


def made(launch: Launch, **annotations: str) -> dict[str, Any]:
    """Its resource, as the API server has it."""
    body = resource(launch, "mine", "team")
    body["metadata"] |= {"generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z"}
    body["metadata"]["annotations"] |= annotations
    return body


@pytest.mark.parametrize(
    ("said", "told"), [(SAID, SAID), ({}, NOTHING_SAID), (dict.fromkeys(SAID), NOTHING_SAID), ({"model_lang": []}, NOTHING_SAID)]
)
def test_a_family_describes_its_models(tmp_path: Path, said: dict[str, Any], told: dict[str, Any]):
    launch = applied(**said)
    State(tmp_path).write({"mine": launch})
    kept = State(tmp_path).read()["mine"]
    assert described(Model("mine", launch, LOADING)) == described(Model("mine", kept, LOADING)) == told
    assert described(model_of(made(launch), "mine")) == told


def test_what_nobody_described_has_no_annotation():
    assert DESCRIBED not in made(applied())["metadata"]["annotations"]
    assert "annotations" not in resource(Launch("org/repo"), "repo", "team")["metadata"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"model_ability": "chat", "model_family": 5, "model_lang": [5], "model_description": null}',
        '{"x": 1}',
    ],
)
def test_an_annotation_that_a_person_wrote_describes_nothing_it_cannot(text: str):
    assert described(model_of(made(applied(), **{DESCRIBED: text}), "mine")) == NOTHING_SAID


def test_a_record_of_before_is_read(tmp_path: Path):
    before = {key: value for key, value in asdict(Launch("mine")).items() if key not in ("family", "abilities", "languages", "description")}
    State(tmp_path).write({"mine": Launch("mine")})
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"models": {"mine": before}}))
    assert described(Model("mine", State(tmp_path).read()["mine"], LOADING)) == NOTHING_SAID
