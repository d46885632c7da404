"""Which fields a request may have: those that are served, those that cannot change an answer, and values that ask for nothing.

Everything else is refused by its name.
"""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.chat.chat_completion_stream_options_param import ChatCompletionStreamOptionsParam
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsStreaming as CompletionParams
from xinference_client.types import PytorchGenerateConfig

from jitney_runtime.server.body import Body
from jitney_runtime.server.chat import ChatRequest
from jitney_runtime.server.completion import CompletionRequest
from jitney_runtime.server.protocol import StreamOptions
from support.rig import CHAT, COMPLETION, Rig, chunks

REQUESTS: dict[str, type[Body]] = {CHAT: ChatRequest, COMPLETION: CompletionRequest}
UNSERVED = [(route, name) for route, request in REQUESTS.items() for name in request.not_served]
USUAL = [(route, name, value) for route, request in REQUESTS.items() for name, values in request.not_served.items() for value in values]
HARMLESS = [(route, name) for route, request in REQUESTS.items() for name in sorted(request.harmless)]
either = pytest.mark.parametrize("route", [CHAT, COMPLETION])


async def refused(rig: Rig, route: str, body: dict[str, Any]) -> tuple[str, str]:
    """The sentence and the field's name."""
    answer = await rig.ask(route, **body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
    return error["message"], error["param"]


async def choices(rig: Rig, route: str, **body: Any) -> Any:
    answer = await rig.ask(route, max_tokens=3, **body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"]


@pytest.mark.parametrize(("route", "name"), UNSERVED)
async def test_every_field_that_is_not_served_is_refused_by_its_name(rig: Rig, route: str, name: str):
    message, param = await refused(rig, route, {name: "anything else"})
    assert message.startswith(f"{name} is not served yet: leave it out")
    assert param == name


@pytest.mark.parametrize(("route", "name", "value"), USUAL)
async def test_a_value_that_asks_for_what_is_done_anyway_changes_nothing(rig: Rig, route: str, name: str, value: Any):
    assert await choices(rig, route, **{name: value}) == await choices(rig, route)


@pytest.mark.parametrize(("route", "name"), HARMLESS)
async def test_a_field_that_cannot_change_an_answer_is_let_in(rig: Rig, route: str, name: str):
    plain = await choices(rig, route)
    for value in ("x", {"a": [5]}):
        assert await choices(rig, route, **{name: value}) == plain


# By either route. Written out, so that a name which leaves the tables is missed.
SENTENCES: list[tuple[dict[str, Any], str]] = [
    ({"n": 2}, "n is not served yet: leave it out or give 1"),
    ({"tools": [{"type": "function"}]}, "tools is not served yet: leave it out or give []"),
    ({"tool_choice": "required"}, 'tool_choice is not served yet: leave it out or give "none"'),
    ({"function_call": {"name": "f"}}, 'function_call is not served yet: leave it out or give "none"'),
    ({"response_format": {"type": "json_object"}}, 'response_format is not served yet: leave it out or give {"type": "text"}'),
    ({"logit_bias": {"5": 1}}, "logit_bias is not served yet: leave it out or give {}"),
    ({"presence_penalty": 0.5}, "presence_penalty is not served yet: leave it out or give 0"),
    ({"frequency_penalty": -1}, "frequency_penalty is not served yet: leave it out or give 0"),
    ({"repetition_penalty": 1.2}, "repetition_penalty is not served yet: leave it out or give 1"),
    ({"reasoning_effort": "none"}, "reasoning_effort is not served yet: leave it out"),
    ({"verbosity": "low"}, 'verbosity is not served yet: leave it out or give "medium"'),
    ({"thinking": {"type": "disabled"}}, "thinking is not served yet: leave it out"),
    ({"documents": [{"text": "x"}]}, "documents is not served yet: leave it out or give []"),
    ({"allowed_token_ids": [1]}, "allowed_token_ids is not served yet: leave it out"),
    ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size is not served yet: leave it out or give 0"),
    ({"typical_p": 0.9}, "typical_p is not served yet: leave it out or give 1"),
    ({"num_beams": 4}, "num_beams is not served yet: leave it out or give 1"),
    ({"early_stopping": True}, "early_stopping is not served yet: leave it out or give false"),
    ({"logits_processors": ["x"]}, "logits_processors is not served yet: leave it out or give []"),
    ({"truncate_prompt_tokens": 4}, "truncate_prompt_tokens is not served yet: leave it out"),
    ({"prompt_logprobs": 0}, "prompt_logprobs is not served yet: leave it out"),
    ({"min_p": 0.1}, "min_p is not served yet: leave it out or give 0"),
    ({"min_tokens": 5}, "min_tokens is not served yet: leave it out or give 0"),
    ({"stop_token_ids": [7]}, "stop_token_ids is not served yet: leave it out or give []"),
    ({"guided_json": {}}, "guided_json is not served yet: leave it out"),
    ({"lora_name": "mine"}, 'lora_name is not served yet: leave it out or give ""'),
    ({"echo": True}, "echo is not served yet: leave it out or give false"),
    ({"best_of": 3}, "best_of is not served yet: leave it out or give 1"),
    # As if it were 1 or 0, which it is not.
    ({"n": True}, "n is not served yet: leave it out or give 1"),
    ({"n": 1.0}, "n is not served yet: leave it out or give 1"),
    ({"echo": 0}, "echo is not served yet: leave it out or give false"),
    ({"presence_penalty": False}, "presence_penalty is not served yet: leave it out or give 0"),
    ({"temprature": 0.5}, "unknown field temprature: did you mean temperature?"),
    ({"Temperature": 0.5}, "unknown field Temperature: did you mean temperature?"),
    ({"max_token": 5}, "unknown field max_token: did you mean max_tokens?"),
    ({"maxTokens": 5}, "unknown field maxTokens: did you mean max_tokens?"),
    ({"max_new_tokens": 5}, "unknown field max_new_tokens: did you mean max_tokens?"),
    ({"num_predict": 5}, "unknown field num_predict: did you mean max_tokens?"),
    ({"stop_strings": ["x"]}, "unknown field stop_strings: did you mean stop?"),
    ({"frequency_penlty": 1}, "unknown field frequency_penlty: did you mean frequency_penalty?"),
    ({"num_ctx": 4096}, "unknown field num_ctx: leave it out"),
    ({"options": {"num_ctx": 4096}}, "unknown field options: leave it out"),
]
OF_CHATS: list[tuple[dict[str, Any], str]] = [
    ({"logprobs": True}, "logprobs is not served yet: leave it out or give false"),
    ({"logprobs": 0}, "logprobs is not served yet: leave it out or give false"),
    ({"add_special_tokens": True}, "add_special_tokens is not served yet: leave it out or give false"),
    ({"prompt": "x"}, "unknown field prompt: did you mean messages?"),
]
OF_COMPLETIONS: list[tuple[dict[str, Any], str]] = [
    ({"logprobs": 0}, "logprobs is not served yet: leave it out"),
    ({"suffix": "end"}, 'suffix is not served yet: leave it out or give ""'),
    ({"add_special_tokens": False}, "add_special_tokens is not served yet: leave it out or give true"),
    ({"enable_thinking": False}, "enable_thinking is not served yet: leave it out"),
    ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs is not served yet: leave it out or give {}"),
    ({"messages": []}, "unknown field messages: did you mean prompt?"),
    ({"max_completion_tokens": 3}, "unknown field max_completion_tokens: did you mean max_tokens?"),
]
ALL = [(CHAT, *row) for row in (*SENTENCES, *OF_CHATS)] + [(COMPLETION, *row) for row in (*SENTENCES, *OF_COMPLETIONS)]


@pytest.mark.parametrize(("route", "body", "sentence"), ALL)
async def test_what_is_said_of_a_field_that_is_refused(rig: Rig, route: str, body: dict[str, Any], sentence: str):
    assert await refused(rig, route, body) == (sentence, next(iter(body)))
    assert not rig.runner.batches, "nothing was computed"


@pytest.mark.parametrize(
    ("options", "sentence", "param"),
    [
        (
            {"include_usge": True},
            "unknown field stream_options.include_usge: did you mean include_usage?",
            "stream_options.include_usge",
        ),
        (
            {"include_usage": True, "x": 1},
            "unknown field stream_options.x: leave it out",
            "stream_options.x",
        ),
        (
            {"continuous_usage_stats": True},
            "stream_options.continuous_usage_stats is not served yet: leave it out or give false",
            "stream_options.continuous_usage_stats",
        ),
    ],
)
@either
async def test_a_stream_option_is_refused_by_its_name_too(rig: Rig, route: str, options: dict[str, Any], sentence: str, param: str):
    assert await refused(rig, route, {"stream": True, "stream_options": options}) == (sentence, param)


@either
async def test_stream_options_that_ask_for_nothing(rig: Rig, route: str):
    options = {"include_usage": None, "continuous_usage_stats": False, "include_obfuscation": True}
    answer = await rig.ask(route, max_tokens=2, stream=True, stream_options=options)
    assert answer.status_code == 200, answer.text
    assert all("usage" not in chunk for chunk in chunks(answer))


@pytest.mark.parametrize(
    ("name", "shown"),
    [("x" * 5000, f"'{'x' * 64}'"), ("", "''"), ("a\nb", "'a\\nb'"), ("température", "'temp\\xe9rature'")],
    ids=["long", "empty", "two lines", "not ASCII"],
)
@either
async def test_any_string_may_be_a_name(rig: Rig, route: str, name: str, shown: str):
    assert await refused(rig, route, {name: 1}) == (f"unknown field {shown}: leave it out", shown)


@either
@pytest.mark.parametrize("body", [{"temperature": 1, "top_p": 1, "do_sample": True}, {"temperature": 0, "do_sample": False}, {"stop": []}])
async def test_whole_numbers_are_numbers_and_a_field_that_agrees_is_let_in(rig: Rig, route: str, body: dict[str, Any]):
    await choices(rig, route, **body)


@pytest.mark.parametrize(
    ("request_type", "names"),
    [
        (ChatRequest, set(ChatParams.__annotations__)),
        (CompletionRequest, set(CompletionParams.__annotations__)),
        (StreamOptions, set(ChatCompletionStreamOptionsParam.__annotations__)),
        (ChatRequest, set(PytorchGenerateConfig.__annotations__)),
        (CompletionRequest, set(PytorchGenerateConfig.__annotations__)),
    ],
    ids=["openai, chats", "openai, completions", "openai, stream options", "xinference, chats", "xinference, completions"],
)
def test_no_field_of_the_published_clients_is_unknown(request_type: type[Body], names: set[str]):
    assert len(names) > 1
    assert names <= {*request_type.model_fields, *request_type.harmless, *request_type.not_served}
    assert not request_type.harmless & set(request_type.not_served)
    assert not set(request_type.model_fields) & {*request_type.harmless, *request_type.not_served}
