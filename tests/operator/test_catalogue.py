"""Models of the administrator's own, beside those that ship with the operator."""

from __future__ import annotations

from typing import Any

import pytest

from jitney_operator.api import ModelDeployment
from jitney_operator.catalogue import Catalogue
from jitney_operator.errors import Rejected, SettingsError
from jitney_operator.observed import Observed
from jitney_operator.plan import make
from jitney_operator.settings import Profile, Settings

OURS = {"repository": "org/ours-3b", "parameters": 3_000_000_000, "layers": 36, "kvHeads": 2, "headDim": 128, "context": 32768}
COMMIT = "5a" * 20
PINNED = Catalogue.read({"ours": {"3": {**OURS, "revision": COMMIT}}})
SETTINGS = Settings(profiles={"cpu": Profile("cpu", "cpu", 16 * 1024**3)})


def planned(
    catalogue: Catalogue, status: dict[str, Any] | None = None, generation: int = 1, **spec: Any
) -> tuple[list[str], dict[str, Any]]:
    """The runtime's arguments, and the status."""
    metadata = {"name": "chat", "namespace": "team", "uid": "u1", "generation": generation}
    made = make(ModelDeployment.parse({"metadata": metadata, "spec": spec, "status": status or {}}), Observed(), SETTINGS, catalogue)
    (container,) = made.changes[-1]["spec"]["template"]["spec"]["containers"]
    return container["args"], made.status("2026-01-01T00:00:00Z")


def test_an_entry_of_ones_own_is_found_by_name_and_by_repository():
    catalogue = Catalogue.read({"ours": {"3": OURS, 7.5: {**OURS, "repository": "org/ours-7b"}}})
    assert catalogue.find("ours", "7.5").repository == "org/ours-7b"
    assert catalogue.by_repository("org/ours-3b") == catalogue.find("ours", "3")
    with pytest.raises(Rejected, match=r"set spec\.size to one of 3, 7\.5"):
        catalogue.find("ours", None)
    assert catalogue.find("smollm2-instruct", "0.135").layers == 30


def test_an_entry_of_ones_own_replaces_one_size_of_a_known_model():
    catalogue = Catalogue.read({"smollm2-instruct": {"0.135": OURS}})
    assert catalogue.find("smollm2-instruct", "0.135").repository == "org/ours-3b"
    assert catalogue.find("smollm2-instruct", "1.7").repository == "HuggingFaceTB/SmolLM2-1.7B-Instruct"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({**OURS, "layers": "many"}, "ours, size 3: layers must be a whole number above 0, not 'many'"),
        ({**OURS, "context": 0}, "context must be a whole number above 0, not 0"),
        ({**OURS, "tied": True}, "hidden is missing"),
        ("org/ours", "ours, size 3 must be a mapping"),
        ({**OURS, "revision": 1234567}, "ours, size 3: revision must be a commit, branch or tag in quotes, not 1234567"),
        ({**OURS, "revision": "--x"}, "revision must be a commit, branch or tag in quotes, not '--x'"),
    ],
)
def test_an_entry_that_says_too_little_names_what_is_missing(values: object, said: str):
    with pytest.raises(SettingsError, match=said):
        Catalogue.read({"ours": {"3": values}})


@pytest.mark.parametrize(
    ("spec", "revision"),
    [
        ({"model": "ours"}, COMMIT),
        ({"model": "ours", "revision": "main"}, "main"),
        ({"model": "org/ours-3b"}, None),
        ({"model": "hf://org/ours-3b", "revision": "v2"}, "v2"),
    ],
    ids=["a short name", "the person's own wins", "org/repo", "org/repo with its own"],
)
def test_a_short_name_is_pinned(spec: dict[str, Any], revision: str | None):
    arguments, status = planned(PINNED, **spec)
    assert ("--revision" in arguments) == bool(revision)
    assert not revision or arguments[arguments.index("--revision") + 1] == revision
    assert status["resolved"].get("revision") == revision
    # The shape is known by either name.
    assert status["resolved"]["size"] == "3"


def test_what_was_accepted_before_it_was_pinned_stays_as_it_is():
    before, status = planned(Catalogue.read({"ours": {"3": OURS}}), model="ours")
    after, again = planned(PINNED, status, model="ours")
    assert "--revision" not in before
    assert after == before
    assert "revision" not in again["resolved"]
    # Another spec is a new beginning.
    assert COMMIT in planned(PINNED, status, 2, model="ours", maxNumSeqs=4)[0]
