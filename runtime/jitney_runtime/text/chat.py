"""Messages to token ids, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jitney_runtime.errors import InvalidRequest
from jitney_runtime.text.tokenizer import Tokenizer

Messages = list[dict[str, Any]]


def prompt_ids(tokenizer: Tokenizer, messages: Messages, variables: Mapping[str, Any] | None = None, field: str = "") -> list[int]:
    """The ids of the rendered conversation, ready for the assistant's turn. `variables` are what the template may read beside the
    messages, and `field` is where the client gave them. InvalidRequest when there is no template or it refuses."""
    if not tokenizer.chat_template:
        raise InvalidRequest("this model has no chat template, so it cannot chat; serve an instruct or chat variant", "messages")
    try:
        return _rendered(tokenizer, messages, variables or {})
    except Exception as error:
        # A template is a program that came with the model: whatever stops it stops at what the client gave. Most raise on purpose.
        if variables and _renders(tokenizer, messages):
            raise InvalidRequest(f"the model's chat template refuses {field}: {error}", field) from error
        raise InvalidRequest(f"the model's chat template refuses these messages: {error}", "messages") from error


def _rendered(tokenizer: Tokenizer, messages: Messages, variables: Mapping[str, Any]) -> list[int]:
    rendered = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=True, **variables)
    return list(rendered["input_ids"])


def _renders(tokenizer: Tokenizer, messages: Messages) -> bool:
    try:
        _rendered(tokenizer, messages, {})
    except Exception:
        return False
    return True
