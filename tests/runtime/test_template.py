"""What a request, and who starts the server, say to the chat template. It is rendered as transformers does it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from jitney_runtime.server import lifecycle, variables
from jitney_runtime.server.state import ServerState, Serving
from support.rig import COMPLETION, HI, Rig, until
from support.words import ByteTokenizer

# As Qwen3's does it, and with a name that it refuses.
THINKING = (
    "{% for message in messages %}{{ message.content }}{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}-{% endif %}{% if thinking %}+{% endif %}"
    "{% if messages[0].content == 'think' and enable_thinking %}{{ raise_exception('not thinking') }}{% endif %}"
    "{% if level is defined %}{{ level.upper() }}{% endif %}{% if bad %}{{ raise_exception('no ' + bad) }}{% endif %}"
    "{% if messages[0].content == 'no' %}{{ raise_exception('not this') }}{% endif %}"
)

THINK = [{"role": "user", "content": "think"}]


class Words(ByteTokenizer):
    chat_template = THINKING

    def apply_chat_template(self, conversation: list[dict[str, Any]], **options: Any) -> dict[str, list[int]]:
        ours = ("tokenize", "return_dict")
        given = {name: value for name, value in options.items() if name not in ours}
        rendered, _ = render_jinja_template([conversation], chat_template=self.chat_template, **given)
        return {"input_ids": self.encode(rendered[0])}


@pytest.fixture
def rig(rig: Rig) -> Rig:
    rig.tokenizer = Words()
    rig.state.serving = Serving(rig.async_engine, rig.tokenizer)
    return rig


def prompt(rig: Rig) -> str:
    return rig.tokenizer.decode(list(rig.runner.batches[-1].rows[0].tokens))


@pytest.mark.parametrize(
    ("fields", "rendered"),
    [
        ({}, "hi"),
        ({"enable_thinking": None, "chat_template_kwargs": None}, "hi"),
        ({"chat_template_kwargs": {}}, "hi"),
        ({"enable_thinking": False}, "hi-"),
        ({"enable_thinking": True}, "hi+"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "hi-"),
        ({"chat_template_kwargs": {"enable_thinking": False}, "enable_thinking": False}, "hi-"),
        ({"chat_template_kwargs": {"level": "high", "unread": [{"a": None}]}}, "hiHIGH"),
        ({"chat_template_kwargs": {"thinking": True, "enable_thinking": False}}, "hi-+"),
        ({"chat_template_kwargs": {"thinking": True}, "enable_thinking": True}, "hi+"),
    ],
)
async def test_a_template_reads_what_a_request_gives_it(rig: Rig, fields: dict[str, Any], rendered: str):
    answer = await rig.chat(max_tokens=1, **fields)
    assert answer.status_code == 200, answer.text
    assert prompt(rig) == rendered


@pytest.mark.parametrize(
    ("fields", "param", "said"),
    [
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs", "valid dictionary"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs", "valid dictionary"),
        ({"enable_thinking": "no"}, "enable_thinking", "valid boolean"),
        ({"enable_thinking": 0}, "enable_thinking", "valid boolean"),
        (
            {"chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs.messages",
            "messages is a field of the request itself; leave it out",
        ),
        ({"chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools", "tools are not served yet; leave it out"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template", "by --chat-template; leave it out"),
        ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs.tokenize", "the server's to say; leave it out"),
        ({"chat_template_kwargs": {"bos_token": "x"}}, "chat_template_kwargs.bos_token", "the tokenizer's own; leave it out"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs", "letters, digits and underscores, not 'a b'"),
        ({"chat_template_kwargs": {"": 1}}, "chat_template_kwargs", "not ''"),
        ({"chat_template_kwargs": {"a": "x" * 16384}}, "chat_template_kwargs", "at most 16384 characters of JSON"),
        ({"chat_template_kwargs": {"level": 5}}, "chat_template_kwargs", "the model's chat template refuses chat_template_kwargs: "),
        ({"chat_template_kwargs": {"bad": "cat"}}, "chat_template_kwargs", "refuses chat_template_kwargs: no cat"),
        (
            {"chat_template_kwargs": {"enable_thinking": True}, "enable_thinking": False},
            "enable_thinking",
            "enable_thinking and chat_template_kwargs.enable_thinking say different things: give one",
        ),
        (
            {"chat_template_kwargs": {"thinking": False}, "enable_thinking": True},
            "enable_thinking",
            "enable_thinking and chat_template_kwargs.thinking say different things: give one",
        ),
        (
            {"chat_template_kwargs": {"enable_thinking": 0}, "enable_thinking": False},
            "enable_thinking",
            "chat_template_kwargs.enable_thinking say different things",
        ),
        ({"enable_thinking": True, "messages": THINK}, "enable_thinking", "refuses enable_thinking: not thinking"),
        (
            {"chat_template_kwargs": {"level": "x"}, "enable_thinking": True, "messages": THINK},
            "enable_thinking",
            "refuses enable_thinking: not thinking",
        ),
        (
            {"chat_template_kwargs": {"bad": "cat"}, "enable_thinking": True},
            "chat_template_kwargs",
            "refuses chat_template_kwargs: no cat",
        ),
        (
            {"chat_template_kwargs": {"bad": "cat"}, "enable_thinking": True, "messages": THINK},
            "chat_template_kwargs",
            "refuses chat_template_kwargs: not thinking",
        ),
        (
            {"chat_template_kwargs": {"level": "x"}, "enable_thinking": True, "messages": [{"role": "user", "content": "no"}]},
            "messages",
            "refuses these messages: not this",
        ),
        (
            {"chat_template_kwargs": {"level": "x"}, "messages": [{"role": "user", "content": "no"}]},
            "messages",
            "refuses these messages: not this",
        ),
    ],
)
async def test_what_a_template_is_not_given(rig: Rig, fields: dict[str, Any], param: str, said: str):
    answer = await rig.chat(max_tokens=1, **fields)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert said in error["message"]
    assert not rig.runner.batches


@pytest.mark.parametrize(("name", "said"), [("level", "surrogates not allowed"), ("bad", "refuses chat_template_kwargs: no \\ud800")])
async def test_a_broken_character_for_a_template_is_400(rig: Rig, name: str, said: str):
    body = b'{"model": "fake", "messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": {"%s": "\\ud800"}}' % name.encode()
    answer = await rig.post(body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "chat_template_kwargs")
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("depth", [*range(100, 1000, 60), *range(940, 1000, 4), 2000])
async def test_no_depth_is_our_failure(rig: Rig, depth: int):
    """Wherever the stack ends, in reading, counting or rendering."""
    nested = b'{"level": "x", "a": ' + b"[" * depth + b"]" * depth + b"}"
    answer = await rig.post(
        b'{"model": "fake", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "chat_template_kwargs": ' + nested + b"}"
    )
    assert answer.status_code in (200, 400), answer.text


def test_no_parameter_of_the_call_can_be_given_in_its_place():
    calls = (PreTrainedTokenizerBase.apply_chat_template, render_jinja_template)
    names = {name for call in calls for name, found in inspect.signature(call).parameters.items() if found.kind is not found.VAR_KEYWORD}
    assert names <= set(variables.SET_BY_SERVER)
    assert set(PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES) <= set(variables.SET_BY_SERVER)


class Special:
    def __init__(self, content: str, special: bool) -> None:
        self.content, self.special = content, special


class WithSpecial(ByteTokenizer):
    """`<end>` is a token that no text shows; `<b>` is one that every text does."""

    added_tokens_decoder = {98: Special("<end>", True), 99: Special("<b>", False)}  # noqa: RUF012


async def answered(rig: Rig, spoken: list[int], **body: Any) -> tuple[str, str, int]:
    rig.runner.spoken = spoken
    whole = (await rig.chat(max_tokens=20, **body)).json()
    choice = whole["choices"][0]
    return choice["message"]["content"], choice["finish_reason"], whole["usage"]["completion_tokens"]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_the_servers_stops_join_the_requests(stream: bool):
    rig = Rig(stop=("END", "<end>"), stop_token_ids=(ord("!") + 1,))
    rig.tokenizer = WithSpecial()
    rig.start()
    spell = rig.tokenizer.encode
    assert await answered(rig, spell("one END two")) == ("one ", "stop", 7)
    assert await answered(rig, spell("one, two END"), stop=[","]) == ("one", "stop", 4)
    assert await answered(rig, spell("hello! and on")) == ("hello", "stop", 6)
    assert await answered(rig, [*spell("hello"), 98, *spell("on")]) == ("hello", "stop", 6), "by its id, which no text shows"
    assert await answered(rig, [*spell("hello EN"), 98]) == ("hello EN", "stop", 9), "what was held back is shown"
    rig.runner.spoken = spell("one END two")
    assert (await rig.ask(COMPLETION, max_tokens=20)).json()["choices"][0]["text"] == "one "
    await until(lambda: not rig.engine.has_work)
    await rig.stop()


@pytest.mark.parametrize(
    ("own", "given", "rendered", "warned"),
    [
        (THINKING, None, "hi", False),
        (THINKING, "{{ 'given ' + messages[0].content }}", "given hi", False),
        ("", "{{ 'given ' + messages[0].content }}", "given hi", False),
        ("", None, "", True),
    ],
    ids=["the model's", "instead of it", "without one", "neither"],
)
async def test_the_template_of_the_start(own: str, given: str | None, rendered: str, warned: bool, caplog: pytest.LogCaptureFixture):
    """Through the server's own life, which a test of its routes goes without."""
    rig = Rig()
    rig.tokenizer = Words()
    rig.tokenizer.chat_template = own
    settings = rig.state.settings.__class__("fake", "fake", port=0, chat_template=given)

    def load(state: ServerState) -> Serving:
        return Serving(rig.async_engine, rig.tokenizer)

    with caplog.at_level(logging.WARNING):
        life = lifecycle.Lifecycle(settings, load, grace_seconds=0)
        running = asyncio.create_task(life.run())
        await until(lambda: life.state.serving is not None or running.done())
    assert ("fake has no chat template: every chat request will be refused" in caplog.messages) is warned
    rig.state.serving = life.state.serving
    assert (await rig.chat(max_tokens=1, messages=HI)).status_code == (200 if rendered else 400)
    if rendered:
        assert prompt(rig) == rendered
    life._leave()
    assert await running == 0
    # The life that has ended was this process's: what the tests start later must not have its thread's policy.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    await rig.client.aclose()
