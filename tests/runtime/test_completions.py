"""Completions over the real engine with the fake runner: OpenAI's text_completion, whole and streamed, beside chats in one batch."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from typing import Any

import pytest
from openai.types import Completion

from jitney_runtime.engine.sequence import SamplingParams
from support.rig import Rig, chunks, until

PROMPT = "user:hi\n"


def texts(found: list[dict[str, Any]]) -> list[str]:
    return [choice["text"] for chunk in found for choice in chunk["choices"]]


async def test_a_whole_answer(rig: Rig):
    answer = await rig.complete(max_tokens=5)
    body = answer.json()
    assert answer.status_code == 200
    assert re.fullmatch("cmpl-[0-9a-f]{32}", body.pop("id"))
    assert abs(body.pop("created") - time.time()) < 60
    assert len(body["choices"][0].pop("text")) == 5
    assert body.pop("choices") == [{"index": 0, "logprobs": None, "finish_reason": "length"}]
    assert body.pop("usage") == {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
    assert body == {"object": "text_completion", "model": "fake", "system_fingerprint": None}


async def test_a_streamed_answer_says_the_same(rig: Rig):
    whole = (await rig.complete(max_tokens=5)).json()["choices"][0]["text"]
    answer = await rig.complete(max_tokens=5, stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")
    *found, usage = chunks(answer)
    assert (usage["choices"], usage["usage"]) == ([], {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13})
    assert all(chunk["usage"] is None and chunk["object"] == "text_completion" for chunk in found)
    assert "".join(texts(found)) == whole
    assert texts(found)[0], "there is no opening chunk without text"
    assert [chunk["choices"][0]["finish_reason"] for chunk in found][-2:] == [None, "length"]
    same = [{name: value for name, value in chunk.items() if name not in ("choices", "usage")} for chunk in (*found, usage)]
    assert re.fullmatch("cmpl-[0-9a-f]{32}", same[0]["id"])
    assert abs(same[0]["created"] - time.time()) < 60
    last = {"object": "text_completion", "model": "fake", "system_fingerprint": None}
    assert all(chunk == same[0] and chunk == same[0] | last and len(chunk) == 5 for chunk in same)
    assert {name for chunk in found for name in chunk["choices"][0]} == {"index", "text", "logprobs", "finish_reason"}
    assert {(choice["index"], choice["logprobs"]) for chunk in found for choice in chunk["choices"]} == {(0, None)}
    assert all("usage" not in chunk for chunk in chunks(await rig.complete(max_tokens=3, stream=True)))


async def test_openais_own_types_read_both(rig: Rig):
    """A chunk that is not the last one has null for its reason, which their type does not say and their server sends."""
    Completion.model_validate((await rig.complete(max_tokens=2)).json())
    for chunk in chunks(await rig.complete(max_tokens=2, stream=True)):
        for choice in chunk["choices"]:
            choice["finish_reason"] = choice["finish_reason"] or "stop"
        Completion.model_validate(chunk)


async def test_the_template_is_not_asked(rig: Rig):
    rig.tokenizer.chat_template = ""
    await rig.complete(max_tokens=1, prompt="plain")
    assert list(rig.runner.batches[0].rows[0].tokens) == rig.tokenizer.encode("plain")


@pytest.mark.parametrize(
    "prompt",
    [PROMPT, [PROMPT], [byte + 1 for byte in PROMPT.encode()], [[byte + 1 for byte in PROMPT.encode()]]],
    ids=["a text", "one in a list", "token ids", "one list of token ids in a list"],
)
async def test_every_form_of_one_prompt_is_the_same_prompt(rig: Rig, prompt: Any):
    plain = (await rig.complete(max_tokens=4)).json()
    answer = (await rig.complete(prompt=prompt, max_tokens=4)).json()
    assert (answer["choices"], answer["usage"]) == (plain["choices"], plain["usage"])


async def test_a_long_prompt_of_ids_or_text_is_refused_by_its_length(rig: Rig):
    """Long enough to be made into tokens on a thread."""
    for prompt in ("x" * 5000, [1] * 5000):
        answer = await rig.complete(prompt=prompt)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


async def test_sixteen_tokens_unless_asked_and_less_where_the_window_ends(rig: Rig):
    assert (await rig.complete()).json()["usage"]["completion_tokens"] == 16
    near = (await rig.complete(prompt="x" * 60)).json()
    assert (near["usage"]["completion_tokens"], near["choices"][0]["finish_reason"]) == (4, "length")
    assert (await rig.complete(max_tokens=56)).json()["usage"]["total_tokens"] == 64


async def test_what_is_asked_for_reaches_the_sampler(rig: Rig):
    asked = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "seed": 11, "ignore_eos": True}
    await rig.complete(max_tokens=3, **asked)
    row = rig.runner.batches[0].rows[0]
    assert (row.params, row.seed) == (SamplingParams(max_tokens=3, **asked), 11)


async def test_what_is_left_out_null_or_asks_for_nothing_is_openais_default(rig: Rig):
    nothing = dict.fromkeys(
        ("temperature", "top_p", "seed", "stop", "stream", "stream_options", "logprobs", "suffix", "user", "logit_bias")
    )
    answer = await rig.complete(**nothing, n=1, best_of=1, echo=False, presence_penalty=0, frequency_penalty=0.0)
    assert answer.status_code == 200, answer.text
    assert rig.runner.batches[0].rows[0].params == SamplingParams(max_tokens=16, temperature=1.0)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_stop_string_counts_in_the_answer_and_not_in_the_prompt(rig: Rig, stream: bool):
    rig.runner.spoken = rig.tokenizer.encode("one hi two")
    answer = await rig.complete(max_tokens=30, stop=["hi"], stream=stream)
    found = chunks(answer) if stream else [answer.json()]
    assert ("".join(texts(found)), found[-1]["choices"][0]["finish_reason"]) == ("one ", "stop")
    await until(lambda: not rig.engine.has_work)


async def test_chats_and_completions_share_the_batch(rig: Rig):
    alone = (await rig.complete(max_tokens=20)).json()["choices"][0]["text"]
    rig.runner.gate = threading.Semaphore(0)
    both = asyncio.gather(rig.text(max_tokens=20), rig.complete(max_tokens=20))
    await until(lambda: rig.async_engine.pending == 2)
    rig.runner.gate.release(1000)
    chat, completion = await both
    assert (chat, completion.json()["choices"][0]["text"]) == (alone, alone), "the same tokens by either way"
    assert max(len(batch.rows) for batch in rig.runner.batches) == 2


async def test_both_routes_describe_themselves(rig: Rig):
    paths = (await rig.client.get("/openapi.json")).json()["paths"]
    assert {"/v1/chat/completions", "/v1/completions"} <= set(paths)
