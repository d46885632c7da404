"""Pages that are made from the code say what the code says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from jitney_operator import conditions, exits, failure, reasons

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_reasons_is_the_table_in_the_code():
    assert (DOCS / "status.md").read_text() == reasons.page(), "make docs"


def test_the_page_names_every_condition_that_is_written():
    source = inspect.getsource(conditions)
    written = set(re.findall(r'Condition\(\s*"(\w+)"', source))
    named = set(re.findall(r"^\| (\w+) \| (?!True means)", reasons.page().partition("| reason |")[0], re.MULTILINE))
    assert written == named


def test_every_failure_has_its_line():
    words = {*exits.EXIT_CODES.values(), *failure.SCHEDULING, *failure.ADVICE, *conditions.LOADING, *reasons.STALLING}
    written = written_reasons()
    assert {"NameConflict", "ImagePullError", "QuotaExceeded", "SecretNotFound", "ConfigMapNotFound", "NotAllowed"} <= written, written
    assert not (words | written) - set(reasons.REASONS)
    assert all("Scheduled" in reasons.REASONS[word].conditions for word in failure.SCHEDULING)
    assert all("ModelLoaded" in reasons.REASONS[word].conditions for word in exits.EXIT_CODES.values())


def written_reasons() -> set[str]:
    """What `Failure(` and `Rejected(` are given in the operator's source, wherever that is no variable."""
    source = "\n".join(path.read_text() for path in sorted(Path(inspect.getfile(failure)).parent.glob("*.py")))
    found = set(re.findall(r'\b(?:Failure|Rejected)\(\s*"(\w+)"', source))
    # One is put together: a Secret's or a ConfigMap's.
    endings = set(re.findall(r'\b(?:Failure|Rejected)\(\s*f"\{kind\}(\w+)"', source))
    return found | {kind + ending for kind in ("Secret", "ConfigMap") for ending in endings}


def test_a_reason_that_stands_on_no_such_condition_cannot_be_written():
    with pytest.raises(ValueError, match="Serving is no reason of Accepted"):
        conditions.Condition("Accepted", "True", "Serving", "")
    for kind in ("Scheduled", "Progressing", "Ready", "Stalled"):
        with pytest.raises(KeyError):
            conditions.Condition(kind, "False", "Whatever", "")
