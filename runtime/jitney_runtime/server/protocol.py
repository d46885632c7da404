"""What every request for an answer has in common, in OpenAI's names, as far as it is served.

A field that would change the answer and is not served is refused by name. Source: the OpenAI API reference, "Create chat completion" and
"Create completion".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from jitney_runtime.engine.sequence import SamplingParams
from jitney_runtime.errors import InvalidRequest, RequestTooLong
from jitney_runtime.text.detokenizer import Detokenizer
from jitney_runtime.text.tokenizer import Tokenizer

Stop = Annotated[str, Field(min_length=1, max_length=256)]


def _as_list(stop: Any) -> Any:
    """OpenAI takes one string or several."""
    return [stop] if isinstance(stop, str) else stop


class StreamOptions(BaseModel):
    include_usage: bool = False


# Values that mean "as if absent", for each field that is not served yet: OpenAI's, and what other servers took up beside them.
NOT_SERVED: dict[str, tuple[Any, ...]] = {
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
    "add_special_tokens": (False,),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "echo": (False,),
    "lora_name": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
}


class AnswerRequest(BaseModel, ABC):
    """How an answer is drawn and sent. What it answers to is a subclass's: its field, and the token ids that it makes."""

    model_config = ConfigDict(extra="allow")

    # What the client calls its prompt.
    prompt_field: ClassVar[str]
    # How long an answer becomes when nobody says so; None: as long as the context window allows.
    usual_tokens: ClassVar[int | None] = None
    not_served: ClassVar[Mapping[str, tuple[Any, ...]]] = NOT_SERVED

    model: str
    max_tokens: int | None = Field(None, ge=1)
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

    @property
    @abstractmethod
    def characters(self) -> int:
        """How much text there is to be made into tokens."""

    @abstractmethod
    def prompt_ids(self, tokenizer: Tokenizer) -> list[int]:
        """The prompt's token ids; InvalidRequest where there are none to be made."""

    def detokenizer(self, tokenizer: Tokenizer, prompt: list[int]) -> Detokenizer:
        """For the answer to `prompt`, this request's token ids."""
        return Detokenizer(tokenizer, tuple(self.stop))

    @property
    def limit_field(self) -> str:
        """The field that says how long the answer may become."""
        return "max_tokens"

    @property
    def streams_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def check(self) -> None:
        """InvalidRequest for what is not served, and for fields that do not go together."""
        for name, value in (self.model_extra or {}).items():
            if name in self.not_served and value not in self.not_served[name]:
                raise InvalidRequest(f"{name} is not served yet: leave it out", name)
        if self.stream_options and not self.stream:
            raise InvalidRequest("stream_options goes with stream: true only", "stream_options")

    def sampling(self, room: int) -> SamplingParams:
        """`room` is how many tokens the context window leaves after the prompt; at or under 0 the engine refuses the prompt itself."""
        wanted: int | None = getattr(self, self.limit_field)
        if wanted and 0 < room < wanted:
            raise RequestTooLong(
                f"{self.limit_field} is {wanted} and the context window leaves {room} tokens after this prompt: lower it or shorten the "
                f"{self.prompt_field}",
                self.limit_field,
            )
        return SamplingParams(
            max_tokens=wanted or max(1, min(room, self.usual_tokens or room)),
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(0, self.top_k),
            seed=self.seed,
            ignore_eos=self.ignore_eos,
        )


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
