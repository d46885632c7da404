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


class ChatRequest(AnswerRequest):
    prompt_field: ClassVar[str] = "messages"

    messages: list[Turn] = Field(min_length=1)
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
        field = variables.FIELD if self.chat_template_kwargs else "enable_thinking"
        return chat.prompt_ids(tokenizer, [turn.for_template() for turn in self.messages], self._variables, field)

    @property
    def _variables(self) -> dict[str, Any]:
        """Templates have two names for whether a model is to think; as Xinference does it, both are given."""
        thinking = {} if self.enable_thinking is None else dict.fromkeys(("enable_thinking", "thinking"), self.enable_thinking)
        return {**thinking, **self.chat_template_kwargs}

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
        if thinking is not None and self.chat_template_kwargs.get("enable_thinking", thinking) != thinking:
            words = f"enable_thinking and {variables.FIELD}.enable_thinking say different things: give one"
            raise InvalidRequest(words, "enable_thinking")


class ChatEnvelope(Envelope):
    id_prefix, whole_kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def message(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def delta(self, text: str) -> Json:
        return {"delta": {"content": text} if text else {}}

    def opening(self) -> Json:
        return {"delta": {"role": "assistant", "content": "", "refusal": None}}
