"""Bodies as the OpenAPI document tells them; they are read by hand. What else a chat may hold is the runtime's affair."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_TEXT: Json = {"type": "string"}
_TEXTS: Json = {"type": "array", "items": _TEXT}
_COUNT: Json = {"type": "integer", "minimum": 1}
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
        "model_type": {"enum": ["LLM"]},
        "model_format": {"enum": ["pytorch"]},
        "model_size_in_billions": _SIZE,
        "size_in_billions": _SIZE,
        "quantization": {"enum": ["none", "int8", "8-bit", "int4", "4-bit"]},
        "replica": _COUNT,
        "n_gpu": {"anyOf": [{"enum": ["auto"]}, {"type": "integer"}, {"type": "null"}]},
        "model_path": _TEXT,
        "revision": _TEXT,
        "max_num_seqs": _COUNT,
        "context_length": _COUNT,
        "torch_dtype": _TEXT,
        "trust_remote_code": {"type": "boolean"},
        "envs": {"type": "object", "additionalProperties": _TEXT},
    },
    "model_engine",
    "model_name",
)
REPLICAS = _body({"replica": _COUNT}, needed=False)
# `model` is the family, as JSON in a text.
REGISTRATION = _body({"model": _TEXT, "persist": {"type": "boolean"}}, "model")
ABORT = _body({"block_duration": {"type": "integer", "minimum": 0, "maximum": 3600}}, needed=False)
