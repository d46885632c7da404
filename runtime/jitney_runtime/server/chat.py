"""A chat: messages in, the assistant's turn out. Source: the OpenAI API reference, "Create chat completion"."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from jitney_runtime.errors import InvalidRequest
from jitney_runtime.server.envelope import Envelope, Json
from jitney_runtime.server.protocol import AnswerRequest
from jitney_runtime.text import chat
from jitney_runtime.text.tokenizer import Tokenizer


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


def _as_parts(content: Any) -> Any:
    """OpenAI takes a string, parts, or null (a turn that only calls tools)."""
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class Message(BaseModel):
    """One turn. Fields that chat templates may read and we do not know are passed on."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[list[TextPart], BeforeValidator(_as_parts)] = []

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content)

    def for_template(self) -> dict[str, Any]:
        return {**(self.model_extra or {}), "role": self.role, "content": self.text}


class ChatRequest(AnswerRequest):
    prompt_field: ClassVar[str] = "messages"

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @property
    def characters(self) -> int:
        return sum(len(message.text) for message in self.messages)

    def prompt_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Through the model's chat template."""
        return chat.prompt_ids(tokenizer, [message.for_template() for message in self.messages])

    @property
    def limit_field(self) -> str:
        return "max_completion_tokens" if self.max_completion_tokens else "max_tokens"

    def check(self) -> None:
        super().check()
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise InvalidRequest("max_tokens and max_completion_tokens say different things: give one", "max_completion_tokens")


class ChatEnvelope(Envelope):
    id_prefix, whole_kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def message(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text}}

    def delta(self, text: str) -> Json:
        return {"delta": {"content": text} if text else {}}

    def opening(self) -> Json:
        return {"delta": {"role": "assistant", "content": ""}}
