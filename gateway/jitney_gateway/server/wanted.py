"""Bodies as the OpenAPI document tells them; they are read by hand. What else a chat may hold is the runtime's affair."""

from __future__ import annotations

from typing import Any

from jitney_gateway.launch import DEVICES, DTYPES, FIXED, LONGEST_WINDOW, MOST_REPLICAS, MOST_SEQUENCES, QUANTIZATIONS, SHORTEST_WINDOW

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_TEXTS: Json = {"type": "array", "items": _TEXT}
_COUNT: Json = {"type": "integer", "minimum": 1}
_WINDOW: Json = {"type": "integer", "minimum": SHORTEST_WINDOW, "maximum": LONGEST_WINDOW}
_SIZE: Json = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, _TEXT]}
_STREAMED: Json = {
    "max_tokens": _COUNT,
    "temperature": {"type": "number", "minimum": 0},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "stream": {"type": "boolean"},
    "request_id": _TEXT,
}
_MESSAGE: Json = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"anyOf": [_TEXT, {"type": "array", "items": {"type": "object"}}, {"type": "null"}]},
    },
}


def _body(properties: Json, *required: str, needed: bool = True) -> Json:
    schema = {"type": "object", "properties": properties, "required": list(required)}
    return {"requestBody": {"required": needed, "content": {"application/json": {"schema": schema}}}}


CHAT = _body({"model": _TEXT, "messages": {"type": "array", "items": _MESSAGE}, **_STREAMED}, "model", "messages")
COMPLETION = _body({"model": _TEXT, "prompt": {"anyOf": [_TEXT, _TEXTS]}, **_STREAMED}, "model", "prompt")
LAUNCH = _body(
    {
        "model_engine": {"enum": ["transformers"]},
        "model_name": _TEXT,
        "model_uid": _TEXT,
        "model_format": {"enum": ["pytorch"]},
        "model_size_in_billions": _SIZE,
        "size_in_billions": _SIZE,
        "quantization": {"enum": list(QUANTIZATIONS)},
        "replica": {**_COUNT, "maximum": MOST_REPLICAS},
        "n_gpu": {"enum": ["auto", 0, 1, None]},
        "device": {"enum": list(DEVICES)},
        "model_path": _TEXT,
        "revision": _TEXT,
        "max_num_seqs": {**_COUNT, "maximum": MOST_SEQUENCES},
        "context_length": _WINDOW,
        "max_model_len": _WINDOW,
        "torch_dtype": {"enum": list(DTYPES)},
        "trust_remote_code": {"type": "boolean"},
        "envs": {"type": "object", "additionalProperties": _TEXT},
        **{name: {"enum": list(allowed)} for name, (allowed, _) in FIXED.items()},
    },
    "model_engine",
    "model_name",
)
REPLICAS = _body({"replica": _COUNT}, needed=False)
# `model` is the family, as JSON in a text.
REGISTRATION = _body({"model": _TEXT, "persist": {"type": "boolean"}}, "model")
ABORT = _body({"block_duration": {"type": "integer", "minimum": 0, "maximum": 3600}}, needed=False)
