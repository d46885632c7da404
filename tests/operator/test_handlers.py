"""Which of kopf the operator uses. Its high-level handlers leave annotations and finalizers on resources, and write for each event."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import jitney_operator

ROOM = Path(jitney_operator.__file__).parent
# Of kopf.on.*; everything else there, and the decorators beside it, is a high-level handler.
LOW = {"kopf.on.login", "kopf.on.event"}
HIGH = {"kopf.timer", "kopf.daemon", "kopf.index"}


def used(code: str) -> set[str]:
    """Every name of kopf that the code uses, in full and whatever it calls it: `kopf.on.event`."""
    tree = ast.parse(code)
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {
                alias.asname or alias.name.split(".")[0]: alias.name if alias.asname else "kopf"
                for alias in node.names
                if is_kopf(alias.name)
            }
        if isinstance(node, ast.ImportFrom) and node.module and is_kopf(node.module):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {*known.values(), *(name for node in ast.walk(tree) if (name := full_name(node, known)))}


def is_kopf(module: str) -> bool:
    return module.split(".")[0] == "kopf"


def full_name(node: ast.AST, known: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        inner = full_name(node.value, known)
        return f"{inner}.{node.attr}" if inner else None
    return None


def forbidden(names: set[str]) -> set[str]:
    high = {name for name in names if name.startswith("kopf.on.") and name not in LOW}
    # A part of kopf that is its own business may hold anything.
    return high | (names & HIGH) | {name for name in names if name.startswith("kopf._") or name == "kopf.*"}


@pytest.mark.parametrize("file", sorted(ROOM.rglob("*.py")), ids=lambda file: file.name)
def test_no_high_level_handler_is_used(file: Path):
    assert forbidden(used(file.read_text())) == set()


def test_the_low_level_ones_are():
    assert used((ROOM / "handlers.py").read_text()) >= LOW


@pytest.mark.parametrize(
    "code",
    [
        *(
            f"import kopf\n@kopf.on.{name}('pods')\ndef f(): ..."
            for name in ("create", "update", "resume", "delete", "field", "timer", "daemon")
        ),
        *(f"import kopf\n@kopf.{name}('pods')\ndef f(): ..." for name in ("timer", "daemon", "index")),
        "import kopf\nkopf.on.create('pods', registry=r)(f)",
        "import kopf as k\nk.on.create('pods')(f)",
        "import kopf.on\nkopf.on.create('pods')(f)",
        "from kopf import on\non.update('pods')(f)",
        "from kopf import on as o\no.index('pods')(f)",
        "from kopf.on import resume as again\nagain('pods')(f)",
        "from kopf import daemon",
        "from kopf import *",
        "from kopf._core.reactor.running import run",
    ],
)
def test_each_high_level_handler_would_be_seen(code: str):
    assert forbidden(used(code))
