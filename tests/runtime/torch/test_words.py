"""The test model's own tokenizer: text piece by piece, whatever its tokens cut in two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as Words
from tokenizers import decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from jitney_runtime.errors import InvalidRequest
from jitney_runtime.server.completion import CompletionRequest
from jitney_runtime.text.chat import prompt_ids
from jitney_runtime.text.detokenizer import Detokenizer, Stops
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
        detokenizer = Detokenizer(tokenizer, Stops((stop,)))
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


@pytest.fixture(scope="module")
def sentences() -> Any:
    """As Llama 2's and Mistral's: a mark for each space, which the decoder takes from the beginning of a text; bytes for what has no token;
    and a BOS token that the tokenizer adds by itself."""
    tokens = ["<s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz", "▁the", "▁bus", "▁stops"]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "b"), ("▁b", "u"), ("▁bu", "s")]
    tokens += ["▁t", "▁th", "▁b", "▁bu"]
    words = Words(models.BPE({token: place for place, token in enumerate(tokens)}, merges, unk_token="<unk>", byte_fallback=True))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    words.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<unk>")


def test_the_tokenizers_own_bos_token_is_there(sentences: Any, tokenizer: Any):
    for words in (sentences, tokenizer):
        for text in ("the bus", "x"):
            request = CompletionRequest(model="m", prompt=text)
            assert request.prompt_ids(words) == words(text)["input_ids"]
    assert CompletionRequest(model="m", prompt="the").prompt_ids(sentences)[0] == sentences.bos_token_id
    assert CompletionRequest(model="m", prompt="").prompt_ids(sentences) == [sentences.bos_token_id]


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [("the", " bus stops"), ("th", "e bus"), ("a 🚌🚏", "🚌 the"), ("日本語", "日 bus"), ("x 🚌🚏🚌", "the 🚏")],
)
def test_a_completion_goes_on_where_its_prompt_ends(sentences: Any, prompt: str, answer: str):
    """Decoded alone the answer would lose its first space, or take the prompt's bytes for half a character."""
    request = CompletionRequest(model="m", prompt=prompt)
    ids = request.prompt_ids(sentences)
    detokenizer = request.detokenizer(sentences, ids, Stops())
    answered = sentences(prompt + "|" + answer, add_special_tokens=False)["input_ids"]
    answered = answered[answered.index(sentences.convert_tokens_to_ids("<0x7C>")) + 1 :]
    pieces = [detokenizer.add(token) for token in answered]
    assert "".join(pieces) + detokenizer.finish() == answer
    assert not any("\ufffd" in piece for piece in pieces)


def test_completions_of_the_test_model_go_on_too(tokenizer: Any):
    for text in TEXTS:
        tokens = tokenizer.encode(text)
        for place in range(1, len(tokens)):
            start = tokenizer.decode(tokens[:place])
            if "\ufffd" in start:
                continue
            detokenizer = Detokenizer(tokenizer, after=tokens[:place])
            assert start + "".join(detokenizer.add(token) for token in tokens[place:]) + detokenizer.finish() == text
