"""The real process with the real model: answers, and what neighbours notice of each other, which is nothing."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoTokenizer

from jitney_runtime.text.chat import prompt_ids
from support.models import smollm2, smollm2_folder
from support.parity import Solo, assert_as_alone, compare_texts, solo_answers
from support.process import RuntimeProcess, running_runtime

QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}
QUESTIONS = [[{"role": "user", "content": f"Name one fact about the number {number}."}] for number in range(16)]
# Not chats: nothing is put around them.
BEGINNINGS = [
    "The capital of France is",
    "Once upon a time there was a bus that",
    "def add(a, b):\n    return",
    "1, 2, 3, 4,",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "日本の首都は",
]
COUNT = 24
# 16 rows and two places to wait.
MOST = 18


@pytest.fixture(scope="module")
def smollm2_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeProcess]:
    folder = tmp_path_factory.mktemp("runtime")
    arguments = ["--model", str(smollm2_folder()), "--served-model-name", "smollm2", "--max-model-len", "2048", "--max-waiting", "2"]
    # As `generate` computes.
    arguments += ["--dtype", "float32"]
    started = time.monotonic()
    with running_runtime(folder, *arguments) as runtime:
        seen = runtime.wait_ready()
        runtime.start_seconds = time.monotonic() - started
        assert seen[0]["status"] == "starting"
        assert any(re.fullmatch(r"loading \d+ %|warming up", status.get("progress", "")) for status in seen), seen
        yield runtime


class Alone:
    """transformers' `generate`, to which each prompt is the only one, and the judge of answers by it."""

    def __init__(self) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
        self._model = smollm2("sdpa")
        self.chats = self.answer([prompt_ids(self.tokenizer, messages) for messages in QUESTIONS])

    def answer(self, prompts: list[list[int]]) -> list[Solo]:
        return solo_answers(self._model, prompts, COUNT)

    def judge(self, texts: list[str], solos: list[Solo]) -> None:
        assert_as_alone(compare_texts(self._model, solos, texts, partial(self.tokenizer.decode, skip_special_tokens=True)))


@pytest.fixture(scope="module")
def alone() -> Alone:
    """Some of its answers to QUESTIONS end by themselves, others at COUNT tokens."""
    alone = Alone()
    assert len({len(solo.tokens) for solo in alone.chats}) > 1
    return alone


def ask(runtime: RuntimeProcess, **body: object) -> dict[str, Any]:
    answer = httpx.post(f"{runtime.url}/v1/chat/completions", json={"model": "smollm2", **QUESTION, **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def chat(client: httpx.AsyncClient, runtime: RuntimeProcess, messages: list[dict[str, str]]) -> str:
    body = {"model": "smollm2", "messages": messages, "temperature": 0, "max_tokens": COUNT}
    answer = await client.post(f"{runtime.url}/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def figure(runtime: RuntimeProcess, name: str) -> float:
    """One sample of /metrics, by its name and as many labels as tell it apart; 0 while there is none."""
    found = re.search(rf"^{name}.* (\S+)$", httpx.get(f"{runtime.url}/metrics", timeout=30).text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def until_figure(runtime: RuntimeProcess, name: str, value: float, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while (now := await asyncio.to_thread(figure, runtime, name)) != value:
        assert time.monotonic() < deadline, f"{name} is {now} and not {value}"
        await asyncio.sleep(0.02)


def test_it_answers(smollm2_process: RuntimeProcess):
    choice = ask(smollm2_process, max_tokens=30)["choices"][0]
    assert "Paris" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"


def test_it_says_how_long_it_took_to_load(smollm2_process: RuntimeProcess):
    """Not more than from the process's start to ready; reading and packing half a gigabyte takes some tenths of a second at least."""
    assert 0.1 < figure(smollm2_process, "jitney_model_load_seconds") < smollm2_process.start_seconds


def test_only_the_event_loop_waits_for_a_core(smollm2_process: RuntimeProcess):
    assert os.sched_getscheduler(smollm2_process.process.pid) == os.SCHED_BATCH
    threads = [int(task.name) for task in Path(f"/proc/{smollm2_process.engine}/task").iterdir()]
    # But for one that takes pages ahead while nothing runs.
    assert {os.sched_getscheduler(thread) for thread in threads} <= {os.SCHED_OTHER, os.SCHED_IDLE}


def test_the_process_that_speaks_http_holds_no_torch(smollm2_process: RuntimeProcess):
    libraries = {pid: Path(f"/proc/{pid}/maps").read_text() for pid in (smollm2_process.process.pid, smollm2_process.engine)}
    assert ["libtorch" in maps for maps in libraries.values()] == [False, True]


def test_a_seed_repeats_an_answer(smollm2_process: RuntimeProcess):
    first, again, other = (ask(smollm2_process, max_tokens=20, temperature=1, seed=seed)["choices"] for seed in (7, 7, 8))
    assert first == again != other


def test_a_prompt_that_leaves_room_for_one_token(smollm2_process: RuntimeProcess):
    """Each ` x` is one token; the template's share is measured first."""
    share = ask(smollm2_process, messages=[{"role": "user", "content": ""}], max_tokens=1)["usage"]["prompt_tokens"]
    longest = {"role": "user", "content": " x" * (2047 - share)}
    body = ask(smollm2_process, messages=[longest])
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (2047, 1)
    longer = {"model": "smollm2", "messages": [{"role": "user", "content": longest["content"] + " x"}]}
    refused = httpx.post(f"{smollm2_process.url}/v1/chat/completions", json=longer, timeout=60)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")


async def test_sixteen_chats_share_a_batch_and_each_answers_as_generate_does_alone(smollm2_process: RuntimeProcess, alone: Alone):
    names = ("jitney_step_seconds_count", "jitney_generation_tokens_total")
    before = [figure(smollm2_process, name) for name in names]
    async with httpx.AsyncClient(timeout=120) as client:
        together = await asyncio.gather(*(chat(client, smollm2_process, messages) for messages in QUESTIONS))
    steps, tokens = (figure(smollm2_process, name) - past for name, past in zip(names, before, strict=True))
    print(f"{steps:.0f} steps made {tokens:.0f} tokens")
    assert tokens > 12 * COUNT
    assert steps < tokens / 4
    alone.judge(together, alone.chats)


async def test_bad_requests_and_a_full_queue_change_no_neighbours_answer(smollm2_process: RuntimeProcess, alone: Alone):
    """Two clients hold rows that never end by themselves; beside them 16 chats, and all that can be refused, at once.

    Of chats that take as many steps as they may: that the queue is full while they last is what the first refusal shows.
    """
    lasting = [(messages, solo) for messages, solo in zip(QUESTIONS, alone.chats, strict=True) if len(solo.tokens) == COUNT]
    questions, solos = zip(*itertools.islice(itertools.cycle(lasting), 16), strict=True)
    url = f"{smollm2_process.url}/v1/chat/completions"
    endless = {"model": "smollm2", **QUESTION, "max_tokens": 1900, "ignore_eos": True, "stream": True}
    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as client:
        async with client.stream("POST", url, json=endless), client.stream("POST", url, json=endless):
            neighbours = [asyncio.create_task(chat(client, smollm2_process, messages)) for messages in questions]
            await until_figure(smollm2_process, "jitney_requests_waiting", MOST - 16)
            refused = await asyncio.gather(
                client.post(url, json={"model": "smollm2", **QUESTION}),
                client.post(url, json={"model": "smollm2", "messages": [{"role": "user", "content": "long " * 3000}]}),
                client.post(url, json={"model": "smollm2", **QUESTION, "temperature": 9}),
                client.post(url, json={"model": "other", **QUESTION}),
                client.post(url, content=b"{", headers={"content-type": "application/json"}),
            )
            assert [answer.status_code for answer in refused] == [429, 400, 400, 404, 400]
            assert all(set(answer.json()["error"]) == {"message", "type", "param", "code"} for answer in refused)
            assert int(refused[0].headers["retry-after"]) > 0
            answers = await asyncio.gather(*neighbours)
        await until_figure(smollm2_process, "jitney_requests_running", 0)
    alone.judge(answers, list(solos))


async def test_completions_beside_chats_are_what_generate_makes_of_the_plain_prompt(smollm2_process: RuntimeProcess, alone: Alone):
    """`generate` over `tokenizer(prompt)`, as its documentation has it; by text and by token ids, in one batch with chats."""
    solos = alone.answer([alone.tokenizer(text)["input_ids"] for text in BEGINNINGS])
    prompts = [*BEGINNINGS, *(solo.prompt for solo in solos)]
    async with httpx.AsyncClient(timeout=120) as client:
        chats = asyncio.gather(*(chat(client, smollm2_process, messages) for messages in QUESTIONS[:4]))
        asked = ({"model": "smollm2", "prompt": prompt, "temperature": 0, "max_tokens": COUNT} for prompt in prompts)
        answers = await asyncio.gather(*(client.post(f"{smollm2_process.url}/v1/completions", json=body) for body in asked))
        alone.judge(await chats, alone.chats[:4])
    assert {answer.status_code for answer in answers} == {200}
    alone.judge([answer.json()["choices"][0]["text"] for answer in answers], solos + solos)
    assert [answer.json()["usage"]["prompt_tokens"] for answer in answers] == [len(solo.prompt) for solo in solos] * 2


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "whole"])
async def test_a_client_that_goes_away_frees_its_row(smollm2_process: RuntimeProcess, stream: bool):
    aborted, tokens = 'jitney_requests_total{finish_reason="abort"', "jitney_generation_tokens_total"
    before, made = figure(smollm2_process, aborted), figure(smollm2_process, tokens)
    body = {"model": "smollm2", **QUESTION, "max_tokens": 1900, "ignore_eos": True, "stream": stream}
    async with httpx.AsyncClient(timeout=120) as client:
        request = asyncio.create_task(client.post(f"{smollm2_process.url}/v1/chat/completions", json=body))
        await until_figure(smollm2_process, "jitney_requests_running", 1)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
    await until_figure(smollm2_process, "jitney_requests_running", 0)
    await until_figure(smollm2_process, aborted, before + 1)
    assert figure(smollm2_process, tokens) - made < 1900
    assert figure(smollm2_process, "jitney_kv_cache_usage_ratio") == 0
