"""The JSON around one answer's text. Whole or streamed, it is the same answer."""

from __future__ import annotations

import json
import time
import uuid
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from jitney_runtime.engine.sequence import FinishReason
from jitney_runtime.server.protocol import Usage

Json = dict[str, Any]

# Made once: json.dumps makes one for each object that is not written its usual way.
encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# Stands for the text of an answer, and in no name of a model.
_TEXT = "\0"


class Envelope(ABC):
    """What all chunks of one answer share. A subclass is one of OpenAI's forms: its names, and where its text stands in a choice."""

    id_prefix: ClassVar[str]
    whole_kind: ClassVar[str]
    chunk_kind: ClassVar[str]

    def __init__(self, model: str) -> None:
        self._id = f"{self.id_prefix}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model

    @abstractmethod
    def message(self, text: str) -> Json:
        """The part of a choice that holds a whole answer."""

    @abstractmethod
    def delta(self, text: str) -> Json:
        """The part of a choice that holds new text; "" where only the finish reason is new."""

    def opening(self) -> Json | None:
        """The part of a choice that a stream begins with, before there is text; None where it begins with text."""
        return None

    def whole(self, text: str, reason: FinishReason, usage: Usage) -> Json:
        return self._wrap(self.whole_kind, [_choice(self.message(text), reason)], usage=usage.model_dump())

    def chunk(self, part: Json, reason: FinishReason | None = None, **more: Any) -> Json:
        return self._wrap(self.chunk_kind, [_choice(part, reason)], **more)

    def around(self, **more: Any) -> tuple[str, str]:
        """What stands before and behind the text in the JSON of every chunk that has text alone."""
        before, _, after = encode(self.chunk(self.delta(_TEXT), **more)).rpartition(encode(_TEXT))
        return before, after

    def closing(self, usage: Usage) -> Json:
        """The chunk after the last one, with the figures."""
        return self._wrap(self.chunk_kind, [], usage=usage.model_dump())

    def _wrap(self, kind: str, choices: list[Json], **more: Any) -> Json:
        """No fingerprint: it would say that two replicas draw the same, and each takes the kernel that is fastest where it runs."""
        same = {"id": self._id, "object": kind, "created": self._created, "model": self._model, "system_fingerprint": None}
        return {**same, "choices": choices, **more}


def _choice(part: Json, reason: FinishReason | None) -> Json:
    return {"index": 0, **part, "logprobs": None, "finish_reason": reason}
