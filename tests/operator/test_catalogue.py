"""Models of the administrator's own, beside those that ship with the operator."""

from __future__ import annotations

import pytest

from jitney_operator.catalogue import Catalogue
from jitney_operator.errors import Rejected, SettingsError

OURS = {"repository": "org/ours-3b", "parameters": 3_000_000_000, "layers": 36, "kvHeads": 2, "headDim": 128, "context": 32768}


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
    ],
)
def test_an_entry_that_says_too_little_names_what_is_missing(values: object, said: str):
    with pytest.raises(SettingsError, match=said):
        Catalogue.read({"ours": {"3": values}})
