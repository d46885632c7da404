"""Chat answers over the real engine with the fake runner: whole, streamed, cut at the right place."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from jitney_runtime.engine.sequence import SamplingParams
from support.rig import HI, Rig, chunks, until


def contents(found: list[dict[str, Any]]) -> list[str]:
    return [choice["delta"]["content"] for chunk in found for choice in chunk["choices"] if choice["delta"].get("content")]


async def test_a_whole_answer(rig: Rig):
    answer = await rig.chat(max_tokens=5)
    body = answer.json()
    assert answer.status_code == 200
    assert re.fullmatch("chatcmpl-[0-9a-f]{32}", body.pop("id"))
    assert abs(body.pop("created") - time.time()) < 60
    assert len(body["choices"][0]["message"].pop("content")) == 5
    choice = {"index": 0, "message": {"role": "assistant", "refusal": None}, "logprobs": None, "finish_reason": "length"}
    assert body.pop("choices") == [choice]
    assert body.pop("usage") == {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13}
    assert body == {"object": "chat.completion", "model": "fake", "system_fingerprint": None}


async def test_a_streamed_answer_says_the_same(rig: Rig):
    whole = await rig.text(max_tokens=5)
    answer = await rig.chat(max_tokens=5, stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")
    *found, usage = chunks(answer)
    assert (usage["choices"], usage["usage"]) == ([], {"prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13})
    assert all(chunk["usage"] is None and chunk["object"] == "chat.completion.chunk" for chunk in found)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(contents(found)) == whole
    assert [chunk["choices"][0]["finish_reason"] for chunk in found][-2:] == [None, "length"]
    same = [{name: value for name, value in chunk.items() if name not in ("choices", "usage")} for chunk in (*found, usage)]
    assert re.fullmatch("chatcmpl-[0-9a-f]{32}", same[0]["id"])
    assert abs(same[0]["created"] - time.time()) < 60
    last = {"object": "chat.completion.chunk", "model": "fake", "system_fingerprint": None}
    assert all(chunk == same[0] and chunk == same[0] | last and len(chunk) == 5 for chunk in same)
    assert {name for chunk in found for name in chunk["choices"][0]} == {"index", "delta", "logprobs", "finish_reason"}
    assert {(choice["index"], choice["logprobs"]) for chunk in found for choice in chunk["choices"]} == {(0, None)}


async def test_a_stream_without_usage_has_none(rig: Rig):
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks(await rig.chat(max_tokens=3, stream=True)))


async def test_what_is_asked_for_reaches_the_sampler(rig: Rig):
    asked = {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "seed": 11, "ignore_eos": True}
    await rig.chat(max_completion_tokens=3, **asked)
    row = rig.runner.batches[0].rows[0]
    assert row.params == SamplingParams(max_tokens=3, **asked)
    assert row.seed == 11


async def test_what_is_left_out_or_null_is_openais_default(rig: Rig):
    names = ("temperature", "top_p", "top_k", "seed", "stop", "stream", "stream_options", "n", "tools", "max_completion_tokens", "logprobs")
    answer = await rig.chat(**dict.fromkeys(names), max_tokens=2)
    assert answer.status_code == 200, answer.text
    assert rig.runner.batches[0].rows[0].params == SamplingParams(max_tokens=2, temperature=1.0)


async def test_without_a_seed_two_answers_draw_differently(rig: Rig):
    await rig.chat(max_tokens=1)
    await rig.chat(max_tokens=1)
    assert len({batch.rows[0].seed for batch in rig.runner.batches}) == 2


@pytest.mark.parametrize("content", ["hi", [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]], ids=["a string", "parts"])
async def test_content_may_come_in_parts(rig: Rig, content: Any):
    answer = await rig.chat(messages=[{"role": "user", "content": content}], max_tokens=1)
    assert answer.json()["usage"]["prompt_tokens"] == 8


@pytest.mark.parametrize("instead", [{"tool_calls": [{"id": "c"}]}, {"function_call": {"name": "f"}}, {"refusal": "no"}])
async def test_an_assistant_may_have_said_nothing_where_the_template_reads_what_was_instead(rig: Rig, instead: dict[str, Any]):
    rig.tokenizer.chat_template = "".join(f"{{{{ message['{name}'] }}}}" for name in instead)
    for content in ({"content": None}, {}, {"content": "some text, too"}):
        answer = await rig.chat(messages=[*HI, {"role": "assistant", **content, **instead}, *HI], max_tokens=1)
        assert answer.status_code == 200, answer.text


async def test_a_tools_turn_and_an_answer_with_all_its_empty_fields_may_come_back(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    """A template sees what is there; one that asks whether tool_calls is defined must not find null."""
    seen: list[list[dict[str, Any]]] = []
    monkeypatch.setattr(rig.tokenizer, "apply_chat_template", lambda turns, **options: seen.append(turns) or {"input_ids": [1]})
    empty = dict.fromkeys(("refusal", "audio", "function_call", "annotations", "name")) | {"tool_calls": []}
    tool = {"role": "tool", "content": "3", "tool_call_id": "c"}
    messages = [HI[0] | {"name": "ann", "id": 5}, {"role": "assistant", "content": "yes", **empty}, tool]
    assert (await rig.chat(messages=messages, max_tokens=1)).status_code == 200
    assert seen == [[HI[0] | {"name": "ann", "id": 5}, {"role": "assistant", "content": "yes"}, tool]]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_prompt_that_leaves_room_for_one_token_gets_one(rig: Rig, stream: bool):
    """The window is 64 tokens and `user:...` with its line end takes 6 of them."""
    messages = [{"role": "user", "content": "x" * 57}]
    answer = await rig.chat(messages=messages, stream=stream, **({"stream_options": {"include_usage": True}} if stream else {}))
    body = chunks(answer)[-1] if stream else answer.json()
    assert body["usage"] == {"prompt_tokens": 63, "completion_tokens": 1, "total_tokens": 64}
    assert (await rig.chat(messages=messages, max_tokens=1)).json()["choices"][0]["finish_reason"] == "length"
    await until(lambda: rig.engine.scheduler.pool.usage == 0)


async def test_a_prompt_that_fills_the_window_is_refused(rig: Rig):
    answer = await rig.chat(messages=[{"role": "user", "content": "x" * 58}])
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")


async def test_without_max_tokens_the_window_ends_the_answer(rig: Rig):
    body = (await rig.chat()).json()
    assert (body["usage"]["total_tokens"], body["choices"][0]["finish_reason"]) == (64, "length")


@pytest.mark.parametrize("text", ["naïve", "日本語", "🚌 on 🚏"])
async def test_characters_of_several_tokens_arrive_whole(rig: Rig, text: str):
    rig.runner.spoken = rig.tokenizer.encode(text)
    pieces = contents(chunks(await rig.chat(max_tokens=len(rig.runner.spoken), stream=True)))
    assert "".join(pieces) == text
    assert len(pieces) > 1
    assert not any("\ufffd" in piece for piece in pieces)


async def test_a_character_that_the_length_cuts_is_shown_as_broken(rig: Rig):
    rig.runner.spoken = rig.tokenizer.encode("a日")
    assert await rig.text(max_tokens=3) == "a\ufffd"


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("stop", ["lo wör", ["never", "ö"], "hel"], ids=["several tokens", "half a character first", "at once"])
async def test_a_stop_string_ends_the_answer_before_it_and_frees_the_row(rig: Rig, stop: str | list[str], stream: bool):
    rig.runner.spoken = rig.tokenizer.encode("hello wörld and on and on and on")
    answer = await rig.chat(max_tokens=50, stop=stop, stream=stream)
    if stream:
        found = chunks(answer)
        text, reason = "".join(contents(found)), found[-1]["choices"][0]["finish_reason"]
    else:
        choice = answer.json()["choices"][0]
        text, reason = choice["message"]["content"], choice["finish_reason"]
    ends = [place for place in ("hello wörld".find(word) for word in ([stop] if isinstance(stop, str) else stop)) if place >= 0]
    assert (text, reason) == ("hello wörld"[: min(ends)], "stop")
    await until(lambda: not rig.engine.has_work)
    assert rig.engine.scheduler.pool.usage == 0


async def test_the_token_that_ends_a_turn_is_no_text(rig: Rig):
    """Not every tokenizer marks it as special, so the tokenizer alone would show it."""
    rig.runner.spoken = rig.tokenizer.encode("hello!")
    rig.engine.scheduler.eos_tokens = frozenset(rig.tokenizer.encode("!"))
    choice = (await rig.chat(max_tokens=20)).json()
    assert choice["choices"][0]["message"]["content"] == "hello"
    assert choice["choices"][0]["finish_reason"] == "stop"
    assert choice["usage"]["completion_tokens"] == 6
    assert await rig.text(max_tokens=8, ignore_eos=True) == "hello!he"
