"""The test model's own tokenizer: text piece by piece, whatever its tokens cut in two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from jitney_runtime.errors import InvalidRequest
from jitney_runtime.text.chat import prompt_ids
from jitney_runtime.text.detokenizer import Detokenizer
from support.models import smollm2_folder

TEXTS = [
    "The capital of France is Paris.",
    "naïve café, Grüße, Ærøskøbing",
    "日本語のテキスト、한국어, العربية",
    "🚌 gets on, 👩‍👩‍👧‍👦 get off 🏳️‍🌈",
    "  two spaces,\ttabs\n\n\nlines   \n",
    "def f(x):\n    return {'a': [1, 2, 3]}\n",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﷽ ẞ \u200b zero width",
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(smollm2_folder())


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_make_the_text_and_never_half_a_character(tokenizer: Any, text: str):
    tokens = tokenizer.encode(text)
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.add(token) for token in tokens] + [detokenizer.finish()]
    assert "".join(pieces) == tokenizer.decode(tokens, skip_special_tokens=True) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_the_texts_cut_characters(tokenizer: Any):
    """Otherwise the test above would show nothing."""
    assert any("\ufffd" in tokenizer.decode([token]) for text in TEXTS for token in tokenizer.encode(text))


@pytest.mark.parametrize("text", TEXTS)
def test_any_stop_string_cuts_before_it_and_never_leaks(tokenizer: Any, text: str):
    """Every part of three characters, wherever the tokens happen to divide it."""
    tokens = tokenizer.encode(text)
    for place in range(len(text) - 2):
        stop = text[place : place + 3]
        detokenizer = Detokenizer(tokenizer, (stop,))
        given = ""
        for token in tokens:
            given += detokenizer.add(token)
            assert text.startswith(given)
        given += detokenizer.finish()
        assert (given, detokenizer.stopped) == (text[: text.index(stop)], True)


def test_special_tokens_are_no_text(tokenizer: Any):
    detokenizer = Detokenizer(tokenizer)
    tokens = [*tokenizer.encode("Yes"), tokenizer.eos_token_id]
    assert "".join(detokenizer.add(token) for token in tokens) + detokenizer.finish() == "Yes"


def test_the_chat_template_opens_the_assistants_turn(tokenizer: Any):
    ids = prompt_ids(tokenizer, [{"role": "user", "content": "Hi"}])
    assert tokenizer.decode(ids).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_that_refuses_says_why(tokenizer: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('turns must alternate') }}")
    with pytest.raises(InvalidRequest, match="chat template refuses these messages: turns must alternate"):
        prompt_ids(tokenizer, [{"role": "user", "content": "Hi"}])
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[0].name + 1 }}")
    with pytest.raises(InvalidRequest, match="chat template refuses these messages"):
        prompt_ids(tokenizer, [{"role": "user", "content": "Hi", "name": "x"}])


def test_a_folder_without_a_template(tmp_path: Path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((smollm2_folder() / name).read_bytes())
    with pytest.raises(InvalidRequest, match="has no chat template"):
        prompt_ids(AutoTokenizer.from_pretrained(tmp_path), [{"role": "user", "content": "Hi"}])
