"""A JSON object of a request: values have the types that they are said to have, null is absent, and every field is known by its name."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from jitney_runtime.errors import InvalidRequest
from jitney_runtime.server.fields import OTHER_NAMES, Values

# How alike two names are that may be one misspelled.
_ALIKE = 0.75
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class Body(BaseModel):
    """Its own fields are served. Others are let in by `harmless` and `not_served`, or refused by `refuse_others`."""

    model_config = ConfigDict(strict=True, extra="allow")

    # Whatever they say, the answer is the same.
    harmless: ClassVar[frozenset[str]] = frozenset()
    # With the values that ask for what is done anyway.
    not_served: ClassVar[Values] = {}

    @model_validator(mode="before")
    @classmethod
    def _null_means_absent(cls, body: Any) -> Any:
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body

    def refuse_others(self, within: str = "") -> None:
        """InvalidRequest for the first field that is not served; `within` is the place of this object, with a dot at its end."""
        for name, value in (self.model_extra or {}).items():
            place = within + _shown(name)
            if name in self.not_served:
                self._refuse_unless_as_done(place, value, self.not_served[name])
            elif name not in self.harmless:
                raise InvalidRequest(f"unknown field {place}: {self._advice(name)}", place)

    def _refuse_unless_as_done(self, place: str, value: Any, done: tuple[Any, ...]) -> None:
        if not any(type(value) is type(usual) and value == usual for usual in done):
            instead = f" or give {json.dumps(done[0])}" if done else ""
            raise InvalidRequest(f"{place} is not served yet: leave it out{instead}", place)

    def _advice(self, name: str) -> str:
        served = type(self).model_fields
        meant = OTHER_NAMES.get(name)
        if meant not in served:
            known = [*served, *self.harmless, *self.not_served]
            meant = next(iter(difflib.get_close_matches(name.lower(), known, 1, _ALIKE)), None) if _PLAIN.fullmatch(name) else None
        return f"did you mean {meant}?" if meant else "leave it out"


def _shown(name: str) -> str:
    """A client may send any string for a name, of any length, and half a character in it."""
    return name if _PLAIN.fullmatch(name) else ascii(name[:64])
