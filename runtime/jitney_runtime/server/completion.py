"""A completion: a text in, what follows it out, without a chat template. Source: the OpenAI API reference, "Create completion"."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import PlainValidator

from jitney_runtime.server.envelope import Envelope, Json
from jitney_runtime.server.fields import NOT_SERVED_OF_COMPLETIONS, Values
from jitney_runtime.server.protocol import AnswerRequest
from jitney_runtime.text.detokenizer import Detokenizer, Stops
from jitney_runtime.text.tokenizer import Tokenizer


def _one_prompt(prompt: Any) -> str | list[int]:
    """A text, or the token ids of one. OpenAI takes a list of prompts too: one in a list is that one, several are refused."""
    if isinstance(prompt, list) and any(isinstance(part, str | list) for part in prompt):
        if len(prompt) > 1:
            raise ValueError(
                "several prompts in one request are not served yet: send one request for each, they share the batch all the same"
            )
        prompt = prompt[0]
    if isinstance(prompt, str):
        return _text(prompt)
    if not isinstance(prompt, list) or not all(type(token) is int and token >= 0 for token in prompt):
        raise ValueError("must be a text, or a list of token ids, which are whole numbers from 0")
    return prompt


def _text(prompt: str) -> str:
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise ValueError("must be valid Unicode, surrogates not allowed") from None
    return prompt


class CompletionRequest(AnswerRequest):
    prompt_field: ClassVar[str] = "prompt"
    usual_tokens: ClassVar[int | None] = 16
    not_served: ClassVar[Values] = NOT_SERVED_OF_COMPLETIONS

    prompt: Annotated[str | list[int], PlainValidator(_one_prompt, json_schema_input_type=str | list[int])]

    def prompt_ids(self, tokenizer: Tokenizer) -> list[int]:
        """As `tokenizer(prompt)` makes them, with a BOS token where the tokenizer itself adds one; ids stay as they are."""
        return tokenizer.encode(self.prompt) if isinstance(self.prompt, str) else self.prompt

    def detokenizer(self, tokenizer: Tokenizer, prompt: list[int], stops: Stops) -> Detokenizer:
        """The answer goes on where the prompt ends, so that a space between the two is there."""
        return Detokenizer(tokenizer, stops.and_texts(self.stop), after=prompt)


class CompletionEnvelope(Envelope):
    id_prefix, whole_kind, chunk_kind = "cmpl", "text_completion", "text_completion"

    def message(self, text: str) -> Json:
        return {"text": text}

    def delta(self, text: str) -> Json:
        return {"text": text}
