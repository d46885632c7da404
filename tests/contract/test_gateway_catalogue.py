"""One catalogue, two readers: the operator's and the front door's find the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from jitney_gateway.catalogue import Catalogue as Front
from jitney_gateway.catalogue import Entry
from jitney_gateway.kubernetes.settings import Settings, SettingsError
from jitney_gateway.launch import Launch
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


OURS = {"repository": "org/our-chat-3b", "parameters": 3, "layers": 2, "kvHeads": 2, "headDim": 8, "context": 64, "revision": "v1"}
OWN = {
    "our-chat": {"3": OURS},
    "smollm2-instruct": {"9": {"repository": "org/other", "parameters": 9, "layers": 1, "kvHeads": 1, "headDim": 4, "context": 32}},
}


def test_both_read_the_administrators_families():
    def found(catalogue: Front | Operator, name: str, size: str | None) -> tuple[str, str | None]:
        model = catalogue.find(name, size)
        return model.repository, model.revision

    front, operator = Front.read(OWN), Operator.read(OWN)
    for name, size in (("our-chat", None), ("smollm2-instruct", "9"), ("smollm2-instruct", "0.135")):
        assert found(front, name, size) == found(operator, name, size)
    assert found(front, "qwen2.5-instruct", "0.5") == found(operator, "qwen2.5-instruct", "0.5")


@pytest.mark.parametrize(
    ("launch", "revision"),
    [
        (Launch("our-chat"), "v1"),
        (Launch("our-chat", revision="main"), "main"),
        (Launch("our-chat", model_path="/models/ours"), None),
        (Launch("org/our-chat-3b"), None),
        (Launch("smollm2-instruct", size="9"), None),
    ],
    ids=["a short name", "the person's own wins", "a folder", "org/repo", "an entry without"],
)
def test_the_front_door_of_one_machine_pins_what_the_operator_pins(launch: Launch, revision: str | None):
    assert Front.read(OWN).pinned(launch).revision == revision


@pytest.mark.parametrize(
    "content", ["catalogue: {x: {'1': {repository: a/b}}}", "catalogue: [1]", "- 1", "catalogue: {x: 3}", "a: [", None]
)
def test_a_catalogue_that_cannot_be_read_stops_the_front_door(content: str | None, tmp_path: Path):
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingsError, match=f"the catalogue in {file} cannot be read"):
        Settings.read({"JITNEY_CONFIG": str(file)})


def test_the_operators_configuration_is_read_for_its_catalogue(tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"runtimeImage": "x", "catalogue": OWN}))
    assert Settings.read({"JITNEY_CONFIG": str(file)}).catalogue == OWN
    file.write_text("runtimeImage: x\n")
    assert Settings.read({"JITNEY_CONFIG": str(file)}).catalogue == {}
