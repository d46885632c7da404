"""What every request for an answer has in common, in OpenAI's names, as far as it is served.

A field that would change the answer and is not served is refused by name, and so is one that nobody knows. Source: the OpenAI API
reference, "Create chat completion" and "Create completion".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, Field

from jitney_runtime.engine.sequence import SamplingParams
from jitney_runtime.errors import InvalidRequest, RequestTooLong
from jitney_runtime.server.body import Body
from jitney_runtime.server.fields import HARMLESS, NOT_SERVED, Values
from jitney_runtime.text.detokenizer import Detokenizer, Stops
from jitney_runtime.text.tokenizer import Tokenizer

Stop = Annotated[str, Field(min_length=1, max_length=256)]


def _as_list(stop: Any) -> Any:
    """OpenAI takes one string or several."""
    return [stop] if isinstance(stop, str) else stop


class StreamOptions(Body):
    # Chunks are not padded, with or without it.
    harmless: ClassVar[frozenset[str]] = frozenset({"include_obfuscation"})
    not_served: ClassVar[Values] = {"continuous_usage_stats": (False,)}

    include_usage: bool = False


class AnswerRequest(Body, ABC):
    """How an answer is drawn and sent. What it answers to is a subclass's: its field, and the token ids that it makes."""

    # What the client calls its prompt.
    prompt_field: ClassVar[str]
    # How long an answer becomes when nobody says so; None: as long as the context window allows.
    usual_tokens: ClassVar[int | None] = None
    harmless: ClassVar[frozenset[str]] = HARMLESS
    not_served: ClassVar[Values] = NOT_SERVED

    model: str
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    top_k: int = Field(0, ge=-1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: Annotated[list[Stop], BeforeValidator(_as_list)] = Field([], max_length=16)
    stream: bool = False
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    # Of transformers; the temperature decides.
    do_sample: bool | None = None

    @abstractmethod
    def prompt_ids(self, tokenizer: Tokenizer) -> list[int]:
        """The prompt's token ids; InvalidRequest where there are none to be made."""

    def detokenizer(self, tokenizer: Tokenizer, prompt: list[int], stops: Stops) -> Detokenizer:
        """For the answer to `prompt`, this request's token ids. `stops` are the server's, and join the request's own."""
        return Detokenizer(tokenizer, stops.and_texts(self.stop))

    @property
    def limit_field(self) -> str:
        """The field that says how long the answer may become."""
        return "max_tokens"

    @property
    def streams_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def check(self) -> None:
        """InvalidRequest for what is not served, and for fields that do not go together."""
        self.refuse_others()
        if self.stream_options is not None:
            self.stream_options.refuse_others("stream_options.")
            if not self.stream:
                raise InvalidRequest("stream_options goes with stream: true only", "stream_options")
        if self.do_sample is not None and self.do_sample != (self.temperature > 0):
            asked = "a temperature over 0" if self.do_sample else "temperature: 0"
            raise InvalidRequest(f"do_sample: {str(self.do_sample).lower()} goes with {asked} only; leave it out", "do_sample")

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
