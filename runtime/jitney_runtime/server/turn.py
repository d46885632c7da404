"""One turn of a chat, as a client gives it and as a chat template takes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from jitney_runtime.errors import InvalidRequest

# What an assistant may have given instead of text. A model sees it where its template reads it.
_INSTEAD = ("tool_calls", "function_call", "refusal")


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


# Of a million that are none, only the first is worth an error.
_Parts = Annotated[list[TextPart], Field(min_length=1, fail_fast=True)]


def _as_parts(content: Any) -> Any:
    """OpenAI takes a string or parts."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Turn(BaseModel):
    """Fields that chat templates may read and we do not know are passed on."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[_Parts | None, BeforeValidator(_as_parts)] = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_means_absent(cls, turn: Any) -> Any:
        """Clients send an answer back with every field that it has, or might have had."""
        if not isinstance(turn, dict):
            return turn
        return {name: value for name, value in turn.items() if value is not None and not (name in _INSTEAD and value == [])}

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content or ())

    @property
    def _others(self) -> dict[str, Any]:
        return self.model_extra or {}

    def check(self, place: str) -> None:
        """InvalidRequest for a turn that says nothing, or says what is not served."""
        if self.content is None and not (self.role == "assistant" and any(name in self._others for name in _INSTEAD)):
            raise InvalidRequest(f"{place}.content: a turn of the {self.role} needs a text", f"{place}.content")
        if self.role == "tool" and not (isinstance(name := self._others.get("tool_call_id"), str) and name):
            raise InvalidRequest(f"{place}.tool_call_id: a tool's turn names the call that it answers", f"{place}.tool_call_id")
        if "audio" in self._others:
            raise InvalidRequest(f"{place}.audio is not served yet: leave it out", f"{place}.audio")

    def check_read(self, place: str, template: str) -> None:
        """InvalidRequest for what this template leaves out."""
        for name in _INSTEAD:
            if name in self._others and name not in template:
                raise InvalidRequest(f"{place}.{name}: this model's chat template does not read it", f"{place}.{name}")

    def for_template(self) -> dict[str, Any]:
        return {**self._others, "role": self.role, "content": self.text}
