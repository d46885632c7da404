"""Messages to token ids, through the model's own chat template."""

from __future__ import annotations

from typing import Any

from jitney_runtime.errors import InvalidRequest
from jitney_runtime.text.tokenizer import Tokenizer


def prompt_ids(tokenizer: Tokenizer, messages: list[dict[str, Any]]) -> list[int]:
    """The ids of the rendered conversation, ready for the assistant's turn. InvalidRequest when there is no template or it refuses."""
    if not tokenizer.chat_template:
        raise InvalidRequest("this model has no chat template, so it cannot chat; serve an instruct or chat variant", "messages")
    try:
        rendered = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=True)
    except Exception as error:
        # A template is a program that came with the model: whatever stops it stops at these messages. Most raise on purpose.
        raise InvalidRequest(f"the model's chat template refuses these messages: {error}", "messages") from error
    return list(rendered["input_ids"])
