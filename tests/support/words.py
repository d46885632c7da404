"""A tokenizer of bytes: token = byte + 1, with 0 for the end. Enough to drive the text and server rooms without a model."""

from __future__ import annotations

from typing import Any


class ByteTokenizer:
    chat_template = "bytes"
    eos_token_id = 0
    # Fields of a message that the template goes through, as real ones do with tool_calls.
    reads: tuple[str, ...] = ()

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> dict[str, list[int]]:
        text = "".join(f"{message['role']}:{message['content']}\n" for message in conversation)
        text += "".join("".join(message.get(field, ())) for message in conversation for field in self.reads)
        return {"input_ids": self.encode(text)}

    def encode(self, text: str) -> list[int]:
        return [byte + 1 for byte in text.encode()]

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return bytes(token - 1 for token in token_ids if token > 0).decode(errors="replace")
