"""A real runtime with a template as Qwen3's: whether a model is to think is written into its prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from transformers import AutoTokenizer

from support.models import save_tiny
from support.process import running_runtime

HI = [{"role": "user", "content": "hi"}]
# The end of Qwen3's: a thought that is over before it began, where none is wanted.
TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)
THINKING = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
SILENT = THINKING + "<think>\n\n</think>\n\n"
CASES: list[tuple[dict[str, Any], str]] = [
    ({}, THINKING),
    ({"enable_thinking": True}, THINKING),
    ({"enable_thinking": False}, SILENT),
    ({"chat_template_kwargs": {"enable_thinking": True}}, THINKING),
    ({"chat_template_kwargs": {"enable_thinking": False}}, SILENT),
]


def test_thinking_or_not_are_two_prompts(tmp_path: Path):
    """The same ids as a completion of the rendered text, so the same answer and as many tokens."""
    folder = save_tiny(tmp_path / "model", vocab_size=49152)
    (folder / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert not tokenizer.chat_template
    arguments = ("--model", str(folder), "--served-model-name", "m", "--dtype", "float32", "--chat-template", TEMPLATE)
    with running_runtime(tmp_path, *arguments) as runtime:
        runtime.wait_ready()
        assert "no chat template" not in runtime.log
        asked = {"model": "m", "temperature": 0, "max_tokens": 8}
        with httpx.Client(base_url=runtime.url, timeout=60) as client:
            plain = {text: answered(client, "/v1/completions", **asked, prompt=text) for text in (THINKING, SILENT)}
            assert plain[THINKING] != plain[SILENT]
            for fields, text in CASES:
                count, answer = answered(client, "/v1/chat/completions", **asked, messages=HI, **fields)
                assert count == len(tokenizer.encode(text)), fields
                assert (count, answer.strip()) == (plain[text][0], plain[text][1].strip()), fields


def answered(client: httpx.Client, route: str, **body: Any) -> tuple[int, str]:
    """The prompt's tokens and the answer."""
    answer = client.post(route, json=body)
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    return answer.json()["usage"]["prompt_tokens"], text
