"""One catalogue, two readers: the operator's and the front door's find the same. The runtime needs none, being told what to load."""

from __future__ import annotations

import re
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from jitney_gateway.catalogue import Catalogue as Front
from jitney_gateway.errors import GatewayError
from jitney_gateway.kubernetes.settings import Settings, SettingsError
from jitney_gateway.launch import Launch
from jitney_gateway.local import memory
from jitney_operator import fit
from jitney_operator.catalogue import Catalogue as Operator
from jitney_operator.errors import Rejected
from jitney_runtime.kernels import library

Json = dict[str, Any]
WRITTEN: dict[str, dict[str, Json]] = yaml.safe_load(resources.files("jitney_operator").joinpath("catalogue.yaml").read_text())
ENTRIES = [(name, size) for name, sizes in WRITTEN.items() for size in sizes]
OPERATOR, FRONT = Operator.read(), Front.read()


def in_the_operator(size: str, written: Json) -> Json:
    """All that it reads of an entry; a field that it learns to read is missing here until somebody says where it is written."""
    return {
        "repository": written["repository"],
        "size": size,
        "parameters": written["parameters"],
        "layers": written["layers"],
        "kv_heads": written["kvHeads"],
        "head_dim": written["headDim"],
        "context": written["context"],
        "tied": written["vocabulary"] * written["hidden"] if written.get("tied") else 0,
        "revision": written.get("revision"),
        **in_a_quantized_model(written),
    }


def in_a_quantized_model(written: Json) -> Json:
    """Weights that score the vocabulary, that are kept as bfloat16, as float32, and as int8 in int4; 0 where an entry does not say."""
    scores, scaled = written.get("vocabulary", 0) * written.get("hidden", 0), "scaledEmbedding" in written
    wide = scores if scaled else 0
    if "experts" in written:
        wide += written["layers"] * written["experts"] * written["hidden"] * (3 * written["expertIntermediate"] + 1)
    delicate = written["parameters"] if written["parameters"] <= 500_000_000 else 0
    if delicate and "intermediate" in written:
        delicate = (
            written["layers"] * written["hidden"] * (written["intermediate"] + (written["heads"] + written["kvHeads"]) * written["headDim"])
        )
    return {"scores": scores, "table": 0 if scaled else scores, "wide": wide, "delicate": delicate}


def in_the_front_door(name: str, size: str, written: Json) -> Json:
    """The same of the other reader."""
    kv = 2 * written["layers"] * written["kvHeads"] * written["headDim"]
    same = {field: written[field] for field in ("repository", "parameters", "context")}
    same |= in_a_quantized_model(written) | {"tied": written.get("tied", False)}
    return {"name": name, "size": size, "revision": written.get("revision"), "kv_elements": kv, **same}


def test_both_know_every_model():
    assert len(ENTRIES) > 60
    assert [(entry.name, entry.size) for entry in FRONT.entries] == ENTRIES
    for name, sizes in WRITTEN.items():
        for found, refusal in ((FRONT, GatewayError), (OPERATOR, Rejected)):
            with pytest.raises(refusal, match=re.escape(", ".join(sizes))):
                found.find(name, "9999")
    for found, refusal in ((FRONT, GatewayError), (OPERATOR, Rejected)):
        with pytest.raises(refusal, match=re.escape(", ".join(sorted(WRITTEN)))):
            found.find("nobody", None)


@pytest.mark.parametrize(("name", "size"), ENTRIES, ids=[" ".join(entry) for entry in ENTRIES])
def test_both_read_every_figure(name: str, size: str):
    written = WRITTEN[name][size]
    assert asdict(OPERATOR.find(name, size)) == in_the_operator(size, written)
    assert asdict(FRONT.find(name, size)) == in_the_front_door(name, size, written)


@pytest.mark.parametrize(
    ("form", "asked"),
    [("none", {}), ("float32", {"dtype": "float32"}), ("int8", {"quantization": "int8"}), ("int4", {"quantization": "int4"})],
)
def test_both_count_a_model_alike(form: str, asked: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "has_kernels", lambda: True)
    launch = Launch("m", device="cpu", max_model_len=1000, **asked)  # type: ignore[arg-type]
    for name, size in ENTRIES:
        wanted = fit.estimate(OPERATOR.find(name, size), "cpu", 1, 1000, form)
        assert memory.needs(launch, FRONT.find(name, size)) - memory.OVERHEAD == wanted.weights + wanted.kv_cache, (name, size)


def test_the_same_processors_have_kernels():
    assert memory.KERNELS == library._V3


OURS = {"repository": "org/our-chat-3b", "parameters": 3, "layers": 2, "kvHeads": 2, "headDim": 8, "context": 64, "revision": "v1"}
OWN: dict[str, dict[str, Json]] = {
    "our-chat": {"3": OURS},
    "smollm2-instruct": {"9": {"repository": "org/other", "parameters": 9, "layers": 1, "kvHeads": 1, "headDim": 4, "context": 32}},
}


@pytest.mark.parametrize(("name", "asked", "size"), [("our-chat", None, "3"), ("smollm2-instruct", "9", "9")])
def test_both_read_the_administrators_families(name: str, asked: str | None, size: str):
    written = OWN[name][size]
    assert asdict(Operator.read(OWN).find(name, asked)) == in_the_operator(size, written)
    assert asdict(Front.read(OWN).find(name, asked)) == in_the_front_door(name, size, written)


@pytest.mark.parametrize(("name", "size"), [("smollm2-instruct", "0.135"), ("qwen2.5-instruct", "0.5")])
def test_the_administrators_families_leave_the_others_as_they_are(name: str, size: str):
    assert Operator.read(OWN).find(name, size) == OPERATOR.find(name, size)
    assert Front.read(OWN).find(name, size) == FRONT.find(name, size)


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
