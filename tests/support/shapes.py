"""The shape of JSON: which keys are where, and of what kind their values are. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Shape = dict[str, set[str]]
# Objects whose keys are names of models or addresses: all their values share one path, as in a list.
MAPS = ("models", "workers")
KINDS = {type(None): "null", bool: "bool", int: "number", float: "number", str: "text", dict: "object", list: "list"}


def shape(value: Any) -> Shape:
    """Path -> kinds seen there. All elements of a list share one path: `data[].id`."""
    found: Shape = {}
    for path, kind in _walk(value, ""):
        found.setdefault(path, set()).add(kind)
    return found


def differences(there: Shape, here: Shape) -> list[str]:
    """What somebody who knows `there` does not find `here`, and what is new; of what lies below a path only the path is told."""
    missing = [f"{path} is missing" for path in _topmost(there, here)]
    more = [f"{path} is more" for path in _topmost(here, there)]
    other = [
        f"{path or 'it'} is {_words(kinds)} there and {_words(here[path])} here"
        for path, kinds in there.items()
        if path in here and not here[path] <= kinds
    ]
    return missing + more + other


def _topmost(paths: Shape, known: Shape) -> list[str]:
    return [path for path in paths if path not in known and paths[_parent(path)] & known.get(_parent(path), set())]


def _parent(path: str) -> str:
    return path.removesuffix("[]") if path.endswith("[]") else path.rpartition(".")[0]


def _words(kinds: set[str]) -> str:
    return " or ".join(sorted(kinds))


def _walk(value: Any, path: str) -> Iterator[tuple[str, str]]:
    yield path, KINDS[type(value)]
    if isinstance(value, dict) and path.rpartition(".")[2] in MAPS:
        value = list(value.values())
    if isinstance(value, dict):
        for key, part in value.items():
            word = key.replace(".", "_")
            yield from _walk(part, f"{path}.{word}" if path else word)
    if isinstance(value, list):
        for part in value:
            yield from _walk(part, f"{path}[]")
