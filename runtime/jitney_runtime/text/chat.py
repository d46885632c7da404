"""Messages to token ids, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jitney_runtime.errors import InvalidRequest
from jitney_runtime.text.tokenizer import Tokenizer

Messages = list[dict[str, Any]]
Variables = Mapping[str, Any]


def prompt_ids(tokenizer: Tokenizer, messages: Messages, given: Mapping[str, Variables] | None = None) -> list[int]:
    """The ids of the rendered conversation, ready for the assistant's turn. `given` are the variables that the template may read beside the
    messages, by the field that gives them; a later field's have the say. InvalidRequest when there is no template or it refuses."""
    if not tokenizer.chat_template:
        raise InvalidRequest("this model has no chat template, so it cannot chat; serve an instruct or chat variant", "messages")
    try:
        return _rendered(tokenizer, messages, given or {})
    except Exception as error:
        # A template is a program that came with the model: whatever stops it stops at what the client gave. Most raise on purpose.
        field = _at_fault(tokenizer, messages, given or {})
        raise InvalidRequest(f"the model's chat template refuses {field or 'these messages'}: {error}", field or "messages") from error


def _at_fault(tokenizer: Tokenizer, messages: Messages, given: Mapping[str, Variables]) -> str:
    """The first field after which the others alone would do; empty where the messages alone would not."""
    left = dict(given)
    for field in given:
        del left[field]
        if _renders(tokenizer, messages, left):
            return field
    return ""


def _rendered(tokenizer: Tokenizer, messages: Messages, given: Mapping[str, Variables]) -> list[int]:
    variables = {name: value for field in given.values() for name, value in field.items()}
    rendered = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=True, **variables)
    return list(rendered["input_ids"])


def _renders(tokenizer: Tokenizer, messages: Messages, given: Mapping[str, Variables]) -> bool:
    try:
        _rendered(tokenizer, messages, given)
    except Exception:
        return False
    return True
