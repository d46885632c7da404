"""What is not served: a status, OpenAI's error shape, the field's name, and nothing that a neighbour would notice."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import pytest

from support.rig import CHAT, COMPLETION, HI, Rig, until

Bad = tuple[dict[str, Any], str | None, str]
# By either route.
BAD: list[Bad] = [
    ({"temperature": -1}, "temperature", "greater than or equal to 0"),
    ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
    ({"temperature": "warm"}, "temperature", "valid number"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"top_p": 1.5}, "top_p", "less than or equal to 1"),
    ({"top_k": -2}, "top_k", "greater than or equal to -1"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": 100}, "max_tokens", "leaves 56 tokens"),
    ({"seed": "x"}, "seed", "valid integer"),
    ({"seed": 2**63}, "seed", "less than"),
    ({"stop": [""]}, "stop.0", "at least 1 character"),
    ({"stop": 5}, "stop", "valid list"),
    ({"stop": ["a"] * 17}, "stop", "at most 16 items"),
    ({"tools": [{"type": "function"}]}, "tools", "tools is not served yet"),
    ({"n": 2}, "n", "n is not served yet"),
    ({"response_format": {"type": "json_object"}}, "response_format", "not served yet"),
    ({"logprobs": True}, "logprobs", "not served yet"),
    ({"presence_penalty": 0.5}, "presence_penalty", "not served yet"),
    ({"repetition_penalty": 1.2}, "repetition_penalty", "not served yet"),
    ({"min_p": 0.1}, "min_p", "not served yet"),
    ({"min_tokens": 5}, "min_tokens", "not served yet"),
    ({"stop_token_ids": [7]}, "stop_token_ids", "not served yet"),
    ({"function_call": {"name": "f"}}, "function_call", "not served yet"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "not served yet"),
    ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs", "not served yet"),
    ({"guided_json": {}}, "guided_json", "not served yet"),
    ({"lora_name": "mine"}, "lora_name", "not served yet"),
    ({"echo": True}, "echo", "not served yet"),
    ({"best_of": 3}, "best_of", "not served yet"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
]
BAD_CHATS: list[Bad] = [
    ({"max_completion_tokens": 100}, "max_completion_tokens", "leaves 56 tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens", "give one"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": None}, "messages", "required"),
    ({"messages": "hi"}, "messages", "valid list"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "'system'"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "valid list"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type", "'text'"),
    ({"messages": [{"role": "user", "content": "x" * 80}]}, "messages", "context window 64"),
    ({"add_special_tokens": True}, "add_special_tokens", "not served yet"),
]
BAD_COMPLETIONS: list[Bad] = [
    ({"prompt": None}, "prompt", "required"),
    ({"prompt": ""}, "prompt", "empty"),
    ({"prompt": []}, "prompt", "empty"),
    ({"prompt": 5}, "prompt", "a text, or a list of token ids"),
    ({"prompt": {"text": "x"}}, "prompt", "a text, or a list of token ids"),
    ({"prompt": [1.5]}, "prompt", "a text, or a list of token ids"),
    ({"prompt": [-1]}, "prompt", "a text, or a list of token ids"),
    ({"prompt": [True]}, "prompt", "a text, or a list of token ids"),
    ({"prompt": [[[1]]]}, "prompt", "a text, or a list of token ids"),
    ({"prompt": [1, None]}, "prompt", "a text, or a list of token ids"),
    ({"prompt": ["a", "b"]}, "prompt", "several prompts in one request are not served yet"),
    ({"prompt": [[1], [2]]}, "prompt", "several prompts in one request are not served yet"),
    ({"prompt": [1, "b"]}, "prompt", "several prompts in one request are not served yet"),
    ({"prompt": [2**70]}, "prompt", "vocabulary"),
    ({"prompt": "x" * 64}, "prompt", "context window 64, and an answer needs at least one: shorten the prompt"),
    ({"max_completion_tokens": 3}, "max_completion_tokens", "not served yet"),
    ({"logprobs": 0}, "logprobs", "not served yet"),
    ({"suffix": "end"}, "suffix", "not served yet"),
    ({"add_special_tokens": False}, "add_special_tokens", "not served yet"),
]
EVERY = [
    *((route, *bad) for route in (CHAT, COMPLETION) for bad in BAD),
    *((CHAT, *bad) for bad in BAD_CHATS),
    *((COMPLETION, *bad) for bad in BAD_COMPLETIONS),
]
either = pytest.mark.parametrize("route", [CHAT, COMPLETION])


def error(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The body's error; the shape is the same for every refusal."""
    assert answer.status_code == status, answer.text
    found = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return dict(found)


@pytest.mark.parametrize(("route", "body", "param", "said"), EVERY)
async def test_a_bad_request_is_400_with_the_fields_name(rig: Rig, route: str, body: dict[str, Any], param: str | None, said: str):
    found = error(await rig.ask(route, **body), 400)
    assert said in found["message"]
    assert (found["param"], found["type"]) == (param, "invalid_request_error")
    assert (await rig.ask(route, max_tokens=2)).status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{not json", "no valid JSON"),
        (b'{"model": "fake", "messages": [', "no valid JSON"),
        (b"", "required"),
        (b"[]", "the body: "),
        (b"\xff\xfe", "body"),
        (b"[" * 100_000, "body"),
        (b'{"model": "fake", "messages": [{"role": "user", "content": "\\ud800"}]}', "surrogates not allowed"),
        (b'{"model": "\\ud800", "messages": [{"role": "\\ud800", "content": "x"}]}', "messages.0.role"),
        (b'{"model": "fake", "messages": [{"role": "user", "content": "x", "name": "\\ud800"}]}', "chat template refuses"),
        (b'{"model": "fake", "temperature": NaN, "messages": [{"role": "user", "content": "x"}]}', "temperature"),
    ],
    ids=[
        "not JSON",
        "cut off",
        "empty",
        "a list",
        "not UTF-8",
        "too deep",
        "half a character",
        "half a character elsewhere",
        "half a character for the template",
        "NaN",
    ],
)
async def test_a_malformed_body_is_400(rig: Rig, body: bytes, said: str):
    rig.tokenizer.reads = ("name",)
    assert said in error(await rig.post(body), 400)["message"]
    assert (await rig.chat(max_tokens=2)).status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{not json", "no valid JSON"),
        (b"", "required"),
        (b'{"prompt": "hi"}', "model: Field required"),
        (b'{"model": "fake", "prompt": "\\ud800"}', "prompt: must be valid Unicode"),
        (b'{"model": "fake", "prompt": ["\\ud800"]}', "prompt: must be valid Unicode"),
        (b'{"model": "fake", "prompt": "hi", "temperature": Infinity}', "temperature"),
    ],
    ids=["not JSON", "empty", "no model", "half a character", "half a character in a list", "infinity"],
)
async def test_a_malformed_completion_is_400(rig: Rig, body: bytes, said: str):
    assert said in error(await rig.post(body, route=COMPLETION), 400)["message"]
    assert (await rig.complete(max_tokens=2)).status_code == 200


async def test_another_content_type_is_400(rig: Rig):
    error(await rig.post(b"model=fake", "application/x-www-form-urlencoded"), 400)


@either
async def test_an_unknown_model_is_404_and_an_unknown_path_too(rig: Rig, route: str):
    found = error(await rig.ask(route, model="other"), 404)
    assert (found["code"], found["param"]) == ("model_not_found", "model")
    assert "this server serves 'fake'" in found["message"]
    assert error(await rig.client.get("/v2/nothing"), 404)["code"] == "not_found"
    wrong_method = await rig.client.get(route)
    assert error(wrong_method, 405)
    assert wrong_method.headers["allow"] == "POST"


async def test_a_model_without_a_chat_template_says_so(rig: Rig):
    rig.tokenizer.chat_template = ""
    assert "has no chat template" in error(await rig.chat(), 400)["message"]


async def test_a_template_that_fails_is_the_messages_fault(rig: Rig):
    """A template may do anything with a field that a client invents; Qwen's iterates over tool_calls."""
    rig.tokenizer.reads = ("tool_calls",)
    found = error(await rig.chat(messages=[{"role": "assistant", "content": "", "tool_calls": 5}, *HI]), 400)
    assert "chat template refuses" in found["message"]


async def test_a_prompt_of_no_tokens_is_400(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rig.tokenizer, "apply_chat_template", lambda *arguments, **options: {"input_ids": []})
    assert "the prompt is empty" in error(await rig.chat(), 400)["message"]


async def test_a_token_beyond_the_vocabulary_is_400(rig: Rig):
    """In a step it would be an index out of range, and end its neighbours with it."""
    rig.runner.vocabulary = 100
    assert "vocabulary" in error(await rig.chat(messages=[{"role": "user", "content": "~"}]), 400)["message"]
    assert "vocabulary" in error(await rig.complete(prompt=[1, 100]), 400)["message"]
    assert not rig.runner.batches


async def test_a_defect_of_ours_is_500_in_the_same_shape(rig: Rig, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(rig.tokenizer, "decode", lambda *arguments, **options: [][0])
    assert error(await rig.chat(max_tokens=2), 500)["code"] == "internal_error"
    monkeypatch.undo()
    assert (await rig.chat(max_tokens=2)).status_code == 200
    await until(lambda: rig.engine.scheduler.pool.usage == 0)
    assert rig.state.in_flight == 0


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic right"}, 401),
        ({"Authorization": "right"}, 401),
        ({"Authorization": "Bearer right"}, 200),
    ],
)
async def test_the_key(header: dict[str, str], status: int):
    rig = Rig(api_key="right")
    rig.start()
    models = await rig.client.get("/v1/models", headers=header)
    chat = await rig.client.post(CHAT, headers=header, json={"model": "fake", "messages": HI, "max_tokens": 1})
    completion = await rig.client.post(COMPLETION, headers=header, json={"model": "fake", "prompt": "hi", "max_tokens": 1})
    assert (models.status_code, chat.status_code, completion.status_code) == (status, status, status)
    if status == 401:
        assert error(chat, 401)["code"] == "invalid_api_key"
    assert [(await rig.client.get(path)).status_code for path in ("/readyz", "/livez", "/metrics")] == [200, 200, 200]
    await rig.stop()


@either
async def test_a_full_queue_is_429_and_the_others_finish(rig: Rig, route: str):
    """Chats and completions stand in one queue."""
    rig.runner.gate = threading.Semaphore(0)
    taken = [asyncio.create_task(rig.chat(max_tokens=3)) for _ in range(4)]
    await until(lambda: rig.async_engine.pending == 4)
    for _ in range(3):
        refused = await rig.ask(route, max_tokens=3)
        found = error(refused, 429)
        assert (found["code"], found["type"], refused.headers["retry-after"]) == ("overloaded", "rate_limit_error", "1")
    rig.runner.gate.release(1000)
    answers = await asyncio.gather(*taken)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
    assert (await rig.chat(max_tokens=3)).status_code == 200


async def test_the_neighbours_of_bad_requests_notice_nothing(rig: Rig):
    """Two rows run and two wait while everything that can be refused is sent, one bad request a step."""
    questions = [[{"role": "user", "content": name * 5}] for name in "abcd"]
    alone = [await rig.text(messages=messages, max_tokens=40) for messages in questions]
    rig.runner.gate = threading.Semaphore(0)
    neighbours = [asyncio.create_task(rig.text(messages=messages, max_tokens=40)) for messages in questions]
    await until(lambda: rig.async_engine.pending == 4)
    for route, body, _, _ in EVERY[::3]:
        rig.runner.gate.release()
        assert (await rig.ask(route, **body)).status_code == 400
        assert (await rig.post(b"{")).status_code == 400
        assert (await rig.chat()).status_code == 429
    assert not any(task.done() for task in neighbours)
    rig.runner.gate.release(1000)
    assert list(await asyncio.gather(*neighbours)) == alone
    assert rig.metric("jitney_requests_total", finish_reason="length") == 8
