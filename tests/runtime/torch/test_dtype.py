"""What `--dtype auto` is on a CPU, that the log says what is served, and how near its answers are to float32's."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from jitney_runtime.engine.model_runner import ScheduledBatch, ScheduledRow
from jitney_runtime.engine.sequence import SamplingParams
from jitney_runtime.progress import Progress
from jitney_runtime.settings import RuntimeSettings
from jitney_runtime.text.chat import prompt_ids
from jitney_runtime.torch_backend import cpu_kernels, loading
from jitney_runtime.torch_backend.linears import BFloat16Linear, WidenedLinear
from support.models import save_tiny, smollm2_folder
from support.parity import batched_answers
from support.process import RuntimeProcess, running_runtime
from support.verdict import TOTAL

QUESTIONS = [[{"role": "user", "content": f"Name one fact about the number {number}."}] for number in range(8)]
COUNT = 24


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def smollm2_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeProcess]:
    arguments = ("--model", str(smollm2_folder()), "--served-model-name", "smollm2", "--device", "cpu", "--max-model-len", "1024")
    with running_runtime(tmp_path_factory.mktemp("runtime"), *arguments) as runtime:
        runtime.wait_ready()
        yield runtime


def load(folder: Path, **settings: Any) -> loading.LoadedModel:
    return loading.load(RuntimeSettings(str(folder), "m", device="cpu", max_num_seqs=8, max_model_len=256, **settings), Progress())


@pytest.mark.parametrize(
    ("asked", "kept", "said"),
    [
        ({}, torch.bfloat16, "bfloat16"),
        ({"kernel": "native"}, torch.bfloat16, "bfloat16"),
        ({"kernel": "plain"}, torch.float32, "torch.float32"),
        ({"kernel": "onednn"}, torch.float32, "torch.float32"),
        ({"dtype": "float32"}, torch.float32, "torch.float32"),
        ({"dtype": "bfloat16", "kernel": "plain"}, torch.bfloat16, "torch.bfloat16"),
    ],
)
def test_auto_is_bfloat16_where_our_kernels_multiply_it(
    tiny: Path, asked: dict[str, str], kept: torch.dtype, said: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    assert load(tiny, **asked).runner.dtype is kept
    assert f" on cpu as {said}: " in caplog.text


def test_auto_is_float32_on_a_cpu_without_our_kernels(tiny: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(cpu_kernels, "available", lambda: False)
    assert load(tiny).runner.dtype is torch.float32
    assert " on cpu as torch.float32: " in caplog.text


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_all_is_float32_where_no_kernel_computes_rightly(
    tiny: Path, dtype: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    for kernel in (BFloat16Linear, WidenedLinear):
        monkeypatch.setattr(kernel, "tolerance", 0.0)
    loaded = load(tiny, dtype=dtype)
    assert {parameter.dtype for parameter in loaded.runner.model.parameters()} == {torch.float32}
    assert loaded.runner.dtype is torch.float32
    assert "no kernel for bfloat16 works on this machine: float32 is used" in caplog.text
    assert " on cpu as torch.float32: " in caplog.text


def test_answers_stay_near_float32s():
    """Of chats: how likely the tokens are that float32 finds likely, first and after some of its own words, as the engine computes them."""
    served, exact = load(smollm2_folder()), load(smollm2_folder(), dtype="float32")
    chats = [prompt_ids(exact.tokenizer, messages) for messages in QUESTIONS]
    wanted, _ = batched_answers(exact.runner, chats, COUNT, blocks=120, seed=1, shortest=COUNT)
    found, _ = batched_answers(served.runner, chats, COUNT, blocks=120, seed=1, shortest=COUNT)
    same = sum(one == other for mine, theirs in zip(found, wanted, strict=True) for one, other in zip(mine, theirs, strict=True))
    off: list[float] = []
    for chat, answer in zip(chats, wanted, strict=True):
        for words in (chat, chat + answer[: COUNT // 2]):
            ours, theirs = (likely(loaded, words) for loaded in (served, exact))
            top = theirs.topk(5).indices
            off.append(float((ours[top] - theirs[top]).abs().max()))
            assert 0 < off[-1] < 0.2
            best, second = theirs.topk(2).values
            assert ours.argmax() == theirs.argmax() or float(best - second) < 0.4
    share = f"{same} of {COUNT * len(chats)} tokens of free answers are float32's"
    TOTAL.told.append(f"bfloat16: {share}; log probabilities are off by {max(off):.3f} at most")


def likely(loaded: loading.LoadedModel, tokens: list[int]) -> torch.Tensor:
    """Log of the probability of each token of the vocabulary to come next."""
    blocks = tuple(range(-(-len(tokens) // loaded.runner.block_size)))
    batch = ScheduledBatch((ScheduledRow("p", tuple(tokens), 0, blocks, True, SamplingParams(1), 0),))
    with torch.inference_mode():
        return loaded.runner.forward(batch)[0].float().log_softmax(-1)


@pytest.mark.parametrize("cuts", [(21,), (1,), (16, 17), (1, 2, 3)])
def test_a_prompt_gets_the_same_however_it_is_cut(cuts: tuple[int, ...]):
    """One token of a prompt is computed as its others are, not as an answer's, whose queries are not rounded."""
    loaded = loading.load(RuntimeSettings(str(smollm2_folder()), "m", max_num_seqs=1, max_model_len=64), Progress())
    tokens = loaded.tokenizer.encode("Once upon a time there was a station at the edge of a town, with two platforms and a clock that")
    assert len(tokens) == 22
    wanted = likely(loaded, tokens)
    for start, end in itertools.pairwise((0, *cuts, len(tokens))):
        row = ScheduledRow("p", tuple(tokens[start:end]), start, (3, 2), True, SamplingParams(1), 0, of_prompt=True)
        with torch.inference_mode():
            found = loaded.runner.forward(ScheduledBatch((row,)))[0].float().log_softmax(-1)
    assert torch.equal(found, wanted)


def test_it_answers(smollm2_process: RuntimeProcess):
    assert " on cpu as bfloat16: " in smollm2_process.log
    question = [{"role": "user", "content": "What is the capital of France?"}]
    assert "Paris" in asyncio.run(asked(smollm2_process, [{"messages": question, "temperature": 0}]))[0]


async def asked(runtime: RuntimeProcess, bodies: list[dict[str, Any]], together: bool = True) -> list[str]:
    """The texts, in the order of the questions."""
    gate = asyncio.Semaphore(len(bodies) if together else 1)

    async def one(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
        async with gate:
            answer = await client.post(f"{runtime.url}/v1/chat/completions", json={"model": "smollm2", "max_tokens": COUNT, **body})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["message"]["content"])

    async with httpx.AsyncClient(timeout=120) as client:
        return await asyncio.gather(*(one(client, body) for body in bodies))


async def test_a_seed_draws_the_same_alone_and_in_company(smollm2_process: RuntimeProcess):
    """A row's products are bitwise the same in any company, so that what is drawn is the same too."""
    bodies = [{"messages": messages, "temperature": 1, "seed": number} for number, messages in enumerate(QUESTIONS)]
    alone = await asked(smollm2_process, bodies, together=False)
    assert len(set(alone)) == len(alone)
    assert await asked(smollm2_process, bodies) == alone
    assert await asked(smollm2_process, [body | {"seed": 99} for body in bodies]) != alone
