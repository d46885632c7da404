"""A chat: messages in, the assistant's turn out. Source: the OpenAI API reference, "Create chat completion"."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from jitney_runtime.errors import InvalidRequest
from jitney_runtime.server import variables
from jitney_runtime.server.envelope import Envelope, Json
from jitney_runtime.server.protocol import AnswerRequest
from jitney_runtime.server.turn import Turn
from jitney_runtime.text import chat
from jitney_runtime.text.tokenizer import Tokenizer

# Names that templates have for whether a model is to think; as Xinference does it, each is given.
_THINKING = ("enable_thinking", "thinking")


class ChatRequest(AnswerRequest):
    prompt_field: ClassVar[str] = "messages"

    # Of a million that are no turns, only the first is worth an error.
    messages: list[Turn] = Field(min_length=1, fail_fast=True)
    max_completion_tokens: int | None = Field(None, ge=1)
    # Of vLLM and SGLang: what the template may read beside the messages.
    chat_template_kwargs: dict[str, Any] = Field({})
    # Of Xinference: one of them, by a name of its own.
    enable_thinking: bool | None = None

    @property
    def _placed(self) -> list[tuple[str, Turn]]:
        return [(f"messages[{number}]", turn) for number, turn in enumerate(self.messages)]

    def prompt_ids(self, tokenizer: Tokenizer) -> list[int]:
        """Through the model's chat template."""
        if tokenizer.chat_template:
            template = str(tokenizer.chat_template)
            for place, turn in self._placed:
                turn.check_read(place, template)
        return chat.prompt_ids(tokenizer, [turn.for_template() for turn in self.messages], self._variables)

    @property
    def _variables(self) -> dict[str, dict[str, Any]]:
        """By the field that gives them."""
        thinking = {} if self.enable_thinking is None else dict.fromkeys(_THINKING, self.enable_thinking)
        given = {"enable_thinking": thinking, variables.FIELD: self.chat_template_kwargs}
        return {field: values for field, values in given.items() if values}

    @property
    def limit_field(self) -> str:
        return "max_completion_tokens" if self.max_completion_tokens else "max_tokens"

    def check(self) -> None:
        super().check()
        for place, turn in self._placed:
            turn.check(place)
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise InvalidRequest("max_tokens and max_completion_tokens say different things: give one", "max_completion_tokens")
        variables.check(self.chat_template_kwargs)
        thinking = self.enable_thinking
        for name in _THINKING:
            if thinking is not None and self.chat_template_kwargs.get(name, thinking) is not thinking:
                raise InvalidRequest(f"enable_thinking and {variables.FIELD}.{name} say different things: give one", "enable_thinking")


class ChatEnvelope(Envelope):
    id_prefix, whole_kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def message(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def delta(self, text: str) -> Json:
        return {"delta": {"content": text} if text else {}}

    def opening(self) -> Json:
        return {"delta": {"role": "assistant", "content": "", "refusal": None}}
