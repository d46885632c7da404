"""On a real GPU: the answers of `generate`, and the exit code of a card that is too small."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import torch
from transformers import AutoTokenizer

from jitney_runtime.text.chat import prompt_ids
from support.models import smollm2, smollm2_folder
from support.process import running_runtime

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
COUNT = 24


def test_a_card_that_is_too_small(tmp_path: Path):
    """Somebody else holds all of it but 100 MB; the weights alone need more."""
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(free - 100 * 2**20, dtype=torch.uint8, device="cuda")
    with running_runtime(tmp_path, "--model", str(smollm2_folder()), "--device", "cuda") as runtime:
        assert runtime.wait_exit() == 15
        assert runtime.termination_line.startswith("GPUOutOfMemory: ")
        assert "maxNumSeqs" in runtime.termination_line
    assert held.is_cuda


def test_answers_are_those_of_generate(tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    model = smollm2("sdpa").to("cuda")
    prompt = torch.tensor([prompt_ids(tokenizer, MESSAGES)], device="cuda")
    alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=COUNT)[0, prompt.shape[1] :]
    arguments = ("--model", str(smollm2_folder()), "--served-model-name", "smollm2", "--device", "cuda", "--dtype", "float32")
    with running_runtime(tmp_path, *arguments) as runtime:
        runtime.wait_ready()
        body = {"model": "smollm2", "messages": MESSAGES, "temperature": 0, "max_tokens": COUNT}
        answer = httpx.post(f"{runtime.url}/v1/chat/completions", json=body, timeout=60).json()
    assert answer["choices"][0]["message"]["content"] == tokenizer.decode(alone, skip_special_tokens=True)
