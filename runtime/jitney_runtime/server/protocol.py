"""OpenAI's wire types, as far as they are served. A field that would change the answer and is not served is refused by name.

Source: the OpenAI API reference, "Create chat completion".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from jitney_runtime.errors import InvalidRequest

Stop = Annotated[str, Field(min_length=1, max_length=256)]


def _as_list(stop: Any) -> Any:
    """OpenAI takes one string or several."""
    return [stop] if isinstance(stop, str) else stop


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

    def for_template(self) -> dict[str, Any]:
        return {**(self.model_extra or {}), "role": self.role, "content": "".join(part.text for part in self.content)}


class StreamOptions(BaseModel):
    include_usage: bool = False


# Value that means "as if absent", for each field that is not served yet: OpenAI's, and what other servers took up beside them.
_NOT_SERVED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "audio": (),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": ("none",),
    "web_search_options": (),
    "repetition_penalty": (1, 1.0),
    "length_penalty": (1, 1.0),
    "min_p": (0, 0.0),
    "min_tokens": (0,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "stop_token_ids": ([],),
    "bad_words": ([],),
    "prompt_logprobs": (0,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
}


class ChatRequest(BaseModel):
    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    top_k: int = Field(0, ge=-1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[list[Stop], BeforeValidator(_as_list), Field(max_length=16)] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False

    @model_validator(mode="before")
    @classmethod
    def _null_means_absent(cls, body: Any) -> Any:
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body

    def refuse_what_is_not_served(self) -> None:
        for name, value in (self.model_extra or {}).items():
            if name in _NOT_SERVED and value not in _NOT_SERVED[name]:
                raise InvalidRequest(f"{name} is not served yet: leave it out", name)
        if self.stream_options and not self.stream:
            raise InvalidRequest("stream_options goes with stream: true only", "stream_options")


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
