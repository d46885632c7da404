"""What a request gives its chat template to read beside the messages. Source: vLLM's and SGLang's chat_template_kwargs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from jitney_runtime.errors import InvalidRequest

FIELD = "chat_template_kwargs"
# Characters of JSON.
LONGEST = 16 * 1024
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_TURNS = "messages is a field of the request itself"
_NEXT_TURN = "an answer is always the assistant's next turn"
_TOKENS = "how text becomes tokens is the server's to say"
_OWN_TOKENS = "it is the tokenizer's own"
# Variables that the server gives a template, and parameters of the call that does so. With the reason.
SET_BY_SERVER: Mapping[str, str] = {
    "self": _TOKENS,
    "messages": _TURNS,
    "conversation": _TURNS,
    "conversations": _TURNS,
    "tools": "tools are not served yet",
    "documents": "documents are not served yet",
    "chat_template": "a template is given when the server is started, by --chat-template",
    "add_generation_prompt": _NEXT_TURN,
    "continue_final_message": _NEXT_TURN,
    **dict.fromkeys(("tokenize", "tokenizer_kwargs", "sanitize_control_tokens", "padding", "truncation", "max_length"), _TOKENS),
    **dict.fromkeys(("return_tensors", "return_dict", "return_assistant_tokens_mask"), _TOKENS),
    **dict.fromkeys(("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"), _OWN_TOKENS),
    "additional_special_tokens": _OWN_TOKENS,
}


def check(variables: Mapping[str, Any]) -> None:
    """InvalidRequest for a name that is none or is the server's, and for too much of them."""
    for name in variables:
        if not _NAME.fullmatch(name):
            words = "a template's variable is named by at most 64 letters, digits and underscores"
            raise InvalidRequest(f"{FIELD}: {words}, not {name[:64]!a}", FIELD)
        if name in SET_BY_SERVER:
            raise InvalidRequest(f"{FIELD}.{name} is not to be set: {SET_BY_SERVER[name]}; leave it out", f"{FIELD}.{name}")
    if _is_too_long(variables):
        raise InvalidRequest(f"{FIELD}: must be at most {LONGEST} characters of JSON", FIELD)


def _is_too_long(variables: Mapping[str, Any]) -> bool:
    """Looks no further than it has to."""
    length = 0
    try:
        for part in json.JSONEncoder().iterencode(variables):
            length += len(part)
            if length > LONGEST:
                return True
    except RecursionError:
        return True
    return False
