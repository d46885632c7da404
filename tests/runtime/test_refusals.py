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
    ({"temperature": "0.5"}, "temperature", "valid number"),
    ({"temperature": True}, "temperature", "valid number"),
    ({"temperature": [0.5]}, "temperature", "valid number"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"top_p": 1.5}, "top_p", "less than or equal to 1"),
    ({"top_p": "0.5"}, "top_p", "valid number"),
    ({"top_p": True}, "top_p", "valid number"),
    ({"top_k": 5.0}, "top_k", "valid integer"),
    ({"top_k": True}, "top_k", "valid integer"),
    ({"top_k": -2}, "top_k", "greater than or equal to -1"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": "5"}, "max_tokens", "valid integer"),
    ({"max_tokens": True}, "max_tokens", "valid integer"),
    ({"max_tokens": 5.0}, "max_tokens", "valid integer"),
    ({"max_tokens": 100}, "max_tokens", "leaves 56 tokens"),
    ({"seed": "7"}, "seed", "valid integer"),
    ({"seed": True}, "seed", "valid integer"),
    ({"seed": 7.0}, "seed", "valid integer"),
    ({"seed": 2**63}, "seed", "less than"),
    ({"stop": [""]}, "stop[0]", "at least 1 character"),
    ({"stop": 5}, "stop", "valid list"),
    ({"stop": True}, "stop", "valid list"),
    ({"stop": [5]}, "stop[0]", "valid string"),
    ({"stop": ["a"] * 17}, "stop", "at most 16 items"),
    ({"stream": "no"}, "stream", "valid boolean"),
    ({"stream": "true"}, "stream", "valid boolean"),
    ({"stream": 1}, "stream", "valid boolean"),
    ({"ignore_eos": "yes"}, "ignore_eos", "valid boolean"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
    ({"stream": True, "stream_options": []}, "stream_options", "valid dictionary"),
    ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage", "valid boolean"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "valid boolean"),
    ({"do_sample": True}, "do_sample", "do_sample: true goes with a temperature over 0 only"),
    ({"do_sample": False, "temperature": 0.1}, "do_sample", "do_sample: false goes with temperature: 0 only"),
    ({"do_sample": False, "temperature": None}, "do_sample", "do_sample: false goes with temperature: 0 only"),
    ({"do_sample": "no"}, "do_sample", "valid boolean"),
    ({"model": None}, "model", "required"),
    ({"model": 5}, "model", "valid string"),
]
BAD_CHATS: list[Bad] = [
    ({"max_completion_tokens": "5"}, "max_completion_tokens", "valid integer"),
    ({"max_completion_tokens": 100}, "max_completion_tokens", "leaves 56 tokens"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_completion_tokens", "give one"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": None}, "messages", "required"),
    ({"messages": "hi"}, "messages", "valid list"),
    ({"messages": ["hi"]}, "messages[0]", "valid dictionary"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role", "required"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "a turn of the user needs a text"),
    ({"messages": [*HI, {"role": "user", "content": None}]}, "messages[1].content", "a turn of the user needs a text"),
    ({"messages": [{"role": "user", "contents": "hi"}]}, "messages[0].content", "a turn of the user needs a text"),
    ({"messages": [{"role": "user", "content": None, "refusal": "no"}]}, "messages[0].content", "a turn of the user needs a text"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "at least 1 item"),
    ({"messages": [{"role": "system"}, *HI]}, "messages[0].content", "a turn of the system needs a text"),
    ({"messages": [*HI, {"role": "assistant"}]}, "messages[1].content", "a turn of the assistant needs a text"),
    ({"messages": [{"role": "assistant", "tool_calls": []}]}, "messages[0].content", "a turn of the assistant needs a text"),
    ({"messages": [{"role": "tool", "tool_call_id": "c"}]}, "messages[0].content", "a turn of the tool needs a text"),
    ({"messages": [*HI, {"role": "tool", "content": "3"}]}, "messages[1].tool_call_id", "names the call that it answers"),
    ({"messages": [{"role": "tool", "content": "3", "tool_call_id": ""}]}, "messages[0].tool_call_id", "names the call"),
    ({"messages": [{"role": "tool", "content": "3", "tool_call_id": 3}]}, "messages[0].tool_call_id", "names the call"),
    ({"messages": [{"role": "assistant", "content": "x", "audio": {"id": "a"}}]}, "messages[0].audio", "not served yet"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls", "chat template does not read it"),
    ({"messages": [{"role": "assistant", "refusal": "no"}, *HI]}, "messages[0].refusal", "chat template does not read it"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text", "valid string"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "'system'"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "valid list"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type", "'text'"),
    ({"messages": [{"role": "user", "content": "x" * 80}]}, "messages", "context window 64"),
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
        (b'{"model": "\\ud800", "messages": [{"role": "\\ud800", "content": "x"}]}', "messages[0].role"),
        (b'{"model": "fake", "messages": [{"role": "user", "content": "x", "name": "\\ud800"}]}', "chat template refuses"),
        (b'{"model": "fake", "\\ud800": 1, "messages": [{"role": "user", "content": "x"}]}', "unicode string"),
        (b'{"model": "fake", "messages": [{"role": "user", "content": "x", "\\ud800": 1}]}', "unicode string"),
        (b'{"model": "fake", "stream": true, "stream_options": {"\\ud800": 1}, "messages": []}', "unicode string"),
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
        "half a character for a name",
        "half a character for a turn's name",
        "half a character for an option's name",
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


@pytest.mark.parametrize(
    ("route", "body", "param"),
    [
        (CHAT, {}, "model"),
        (CHAT, {"messages": HI}, "model"),
        (CHAT, {"model": "fake"}, "messages"),
        (CHAT, {"model": "fake", "prompt": "hi"}, "messages"),
        (COMPLETION, {}, "model"),
        (COMPLETION, {"prompt": "hi"}, "model"),
        (COMPLETION, {"model": "fake"}, "prompt"),
        (COMPLETION, {"model": "fake", "messages": HI}, "prompt"),
    ],
)
async def test_what_is_missing_is_named(rig: Rig, route: str, body: dict[str, Any], param: str):
    found = error(await rig.client.post(route, json=body), 400)
    assert (found["message"], found["param"]) == (f"{param}: Field required", param)


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
    rig.tokenizer.chat_template, rig.tokenizer.reads = "{{ message.tool_calls }}", ("tool_calls",)
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
    for route, body, _, _ in EVERY[:: -(-len(EVERY) // 36)]:
        rig.runner.gate.release()
        assert (await rig.ask(route, **body)).status_code == 400
        assert (await rig.post(b"{")).status_code == 400
        assert (await rig.chat()).status_code == 429
    assert not any(task.done() for task in neighbours)
    rig.runner.gate.release(1000)
    assert list(await asyncio.gather(*neighbours)) == alone
    assert rig.metric("jitney_requests_total", finish_reason="length") == 8
