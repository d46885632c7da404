"""The front door's API keys: who may come in, for which models, and how often. Pure.

A key is random and long, so one SHA-256 is enough to keep it by: there is nothing to guess that a slow hash would slow down.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

import yaml

PREFIX = "jk-"
FIELDS = ("id", "hash", "models", "requestsPerMinute", "tokensPerMinute", "launch")
# What `launch` may say.
FULL = "full"
MOST_PER_MINUTE = 1_000_000_000


class KeysError(Exception):
    """The document cannot be taken; the sentence names the place."""


@dataclass(frozen=True)
class Key:
    """`hash` is the SHA-256 of what a client sends, in hexadecimal. `models` are names or shell patterns, None for all; the limits are a
    minute's, None for none. `full_launch` is whether it may launch what runs programs of its own although it is for some models only."""

    id: str
    hash: str
    models: tuple[str, ...] | None = None
    requests: int | None = None
    tokens: int | None = None
    full_launch: bool = False

    def may_use(self, name: str) -> bool:
        """Whether it is for the model of this uid, or the custom model of this name."""
        return self.models is None or any(_matches(name, pattern) for pattern in self.models)

    @property
    def may_run_code(self) -> bool:
        return self.models is None or self.full_launch

    def written(self) -> dict[str, Any]:
        """Its entry in the document."""
        models, launch = None if self.models is None else list(self.models), FULL if self.full_launch else None
        values = (self.id, f"sha256:{self.hash}", models, self.requests, self.tokens, launch)
        return {field: value for field, value in zip(FIELDS, values, strict=True) if value is not None}


@dataclass(frozen=True)
class Keys:
    """Those of one document."""

    entries: tuple[Key, ...]

    @classmethod
    def read(cls, text: str) -> Self:
        """A document in YAML or JSON: `keys`, a list of entries. KeysError where anything in it is not understood: a slip of the pen shall
        let nobody in."""
        try:
            document = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise KeysError(f"it is no YAML: {' '.join(str(error).split())}") from error
        if not isinstance(document, dict) or set(document) != {"keys"}:
            raise KeysError("it must have the one field `keys`, a list of entries")
        found = document["keys"] if document["keys"] is not None else []
        if not isinstance(found, list):
            raise KeysError("keys: must be a list of entries")
        entries = tuple(_entry(f"keys[{number}]", entry) for number, entry in enumerate(found))
        for field in ("id", "hash"):
            seen = set[str]()
            for number, entry in enumerate(entries):
                value = getattr(entry, field)
                if value in seen:
                    raise KeysError(f"keys[{number}].{field}: another entry has it already")
                seen.add(value)
        return cls(entries)

    def find(self, secret: str) -> Key | None:
        """However it ends, it has compared with every entry: how long it takes tells nothing."""
        given, found = digest(secret), None
        for entry in self.entries:
            if hmac.compare_digest(given, entry.hash):
                found = entry
        return found


def make(
    name: str, models: tuple[str, ...] | None = None, requests: int | None = None, tokens: int | None = None, full_launch: bool = False
) -> tuple[str, Key]:
    """A new key of 256 random bits, and its entry. The key itself is kept nowhere. KeysError where the entry could not be read again."""
    secret = PREFIX + secrets.token_urlsafe(32)
    key = Key(name, digest(secret), models, requests, tokens, full_launch)
    return secret, _entry("the key", key.written())


def _matches(name: str, pattern: str) -> bool:
    """A shell's pattern, of which nothing stands for a slash: `*` is every model of the front door's own namespace and none of another."""
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def _entry(place: str, entry: object) -> Key:
    if not isinstance(entry, dict):
        raise KeysError(f"{place}: must be a mapping with id and hash")
    for field in entry:
        if field not in FIELDS:
            raise KeysError(f"{place}.{field}: is no field of an entry; there are {', '.join(FIELDS)}")
    name, hashed = entry.get("id"), entry.get("hash")
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}", name):
        raise KeysError(f"{place}.id: must be at most 63 letters, digits, dots, dashes, underscores and @, not {name!r}")
    # Nothing of a wrong one is repeated: it may be the key itself.
    if not isinstance(hashed, str) or not re.fullmatch(r"(sha256:)?[0-9a-fA-F]{64}", hashed):
        raise KeysError(f"{place}.hash: must be the SHA-256 of the key in hexadecimal, which `jitney keys make` prints")
    return Key(
        name,
        hashed.removeprefix("sha256:").lower(),
        _models(place, entry),
        _per_minute(place, "requestsPerMinute", entry),
        _per_minute(place, "tokensPerMinute", entry),
        _full_launch(place, entry),
    )


def _models(place: str, entry: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What is left out allows all; an empty list allows none."""
    if "models" not in entry:
        return None
    found = entry["models"]
    if not isinstance(found, list) or not all(isinstance(name, str) and name for name in found):
        raise KeysError(f"{place}.models: must be a list of names or patterns; leave it out to allow all")
    return tuple(found)


def _full_launch(place: str, entry: Mapping[str, Any]) -> bool:
    if entry.get("launch", FULL) != FULL:
        raise KeysError(f"{place}.launch: must be {FULL}, not {entry['launch']!r}; leave it out otherwise")
    return "launch" in entry


def _per_minute(place: str, field: str, entry: Mapping[str, Any]) -> int | None:
    if field not in entry:
        return None
    found = entry[field]
    if type(found) is not int or not 1 <= found <= MOST_PER_MINUTE:
        raise KeysError(f"{place}.{field}: must be a whole number from 1 to {MOST_PER_MINUTE}, not {found!r}; leave it out for no limit")
    return found
