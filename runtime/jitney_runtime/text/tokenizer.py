"""What this room asks of a tokenizer; transformers' fast tokenizers fulfil it."""

from __future__ import annotations

from typing import Any, Protocol


class Tokenizer(Protocol):
    chat_template: Any

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> Any: ...

    def encode(self, text: str) -> list[int]:
        """With the special tokens that the tokenizer adds by itself, such as BOS."""
        ...

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = False) -> str: ...


def special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the tokens that decoding leaves out, by their text. A tokenizer without added tokens has none."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {token.content: number for number, token in added.items() if token.special}
