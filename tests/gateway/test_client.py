"""The published xinference-client as its users call it, blocking and async, on one running server with the real process and model."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from xinference_client import AsyncRESTfulClient, RESTfulClient

from support.local import NAME, QUESTION, Local, launch, until

BEGINNING = "The capital of France is"
GREEDY = {"temperature": 0, "max_tokens": 20}
STORY = [{"role": "user", "content": "Write a very long story."}]
ENDLESS = {"temperature": 1, "max_tokens": 2000, "ignore_eos": True}


@pytest.fixture(scope="module")
def uid(client: RESTfulClient) -> str:
    """A model that is ready when launch_model returns, as there. In float32, because answers are compared."""
    return client.launch_model(**launch(), max_num_seqs=16, torch_dtype="float32")


def said(events: list[dict[str, Any]]) -> str:
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])


def texts(events: list[dict[str, Any]]) -> list[str]:
    return [event["choices"][0]["text"] for event in events if event["choices"]]


def until_nothing_runs(address: str) -> None:
    running = re.compile(r"^jitney_requests_running\{.*\} 0\.0$", re.MULTILINE)
    until(lambda: running.search(httpx.get(f"{address}/metrics").text))


def test_the_default_uid_is_the_name(uid: str):
    assert uid == "smollm2-instruct"


def test_chat_is_used_as_before(client: RESTfulClient, uid: str):
    answer = client.get_model(uid).chat(QUESTION, generate_config={"temperature": 0, "max_tokens": 20})
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert answer["usage"]["completion_tokens"] == 8


def test_a_stream_is_used_as_before(client: RESTfulClient, uid: str):
    events = list(client.get_model(uid).chat(QUESTION, generate_config={"temperature": 0, "max_tokens": 20, "stream": True}))
    assert said(events) == "The capital of France is Paris."
    assert len(events) > 5


def test_models_are_listed_and_described(client: RESTfulClient, uid: str):
    listed = client.list_models()[uid]
    assert (listed["id"], listed["model_type"], listed["model_size_in_billions"]) == (uid, "LLM", "0_135")
    described = client.describe_model(uid)
    assert described["model_ability"] == ["chat", "generate"]
    assert described["model_engine"] == "transformers"
    (instance,) = client.get_instance_info("smollm2-instruct", uid)
    assert (instance["status"], instance["replica"]) == ("READY", 1)
    assert client.query_engine_by_model_name("qwen1.5-chat")["Transformers"][2]["model_size_in_billions"] == 4
    assert client.get_launch_model_progress(uid)["progress"] == 1.0


def test_openais_clients_read_errors_too(local: Local, uid: str):
    answer = httpx.post(f"{local.url}/v1/chat/completions", json={"model": "nobody", "messages": QUESTION})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert uid in answer.json()["detail"]
    refused = httpx.post(f"{local.url}/v1/chat/completions", json={"model": uid, "messages": QUESTION, "logprobs": True})
    assert refused.status_code == 400
    assert "logprobs" in refused.text


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "no JSON"),
        (b"[]", 400, "must be a JSON object"),
        (json.dumps(NAME | {"model_path": "/nowhere"}).encode(), 400, "model_path: there is no folder /nowhere"),
        (json.dumps(NAME | {"model_name": "nope"}).encode(), 400, "Model not found, name: nope"),
        (json.dumps(NAME | {"model_name": "qwen1.5-chat", "model_size_in_billions": 110}).encode(), 503, "take a smaller size"),
        (json.dumps(NAME | {"worker_ip": "10.0.0.1"}).encode(), 400, "worker_ip"),
    ],
    ids=["no JSON", "no object", "no folder", "no model", "no memory", "no such field"],
)
def test_a_launch_that_cannot_be(local: Local, body: bytes, status: int, said: str):
    answer = httpx.post(f"{local.url}/v1/models", content=body)
    assert answer.status_code == status
    assert said in answer.json()["detail"]


def test_the_clients_error_has_the_reason(client: RESTfulClient, uid: str):
    with pytest.raises(RuntimeError, match=f"Model is already in the model list, uid: {uid}"):
        client.launch_model(**launch(), model_uid=uid)


def test_a_model_that_fails_to_load_is_told_and_not_left_behind(client: RESTfulClient, local: Local, tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing-known"}')
    with pytest.raises(RuntimeError, match="NotSupportedYet"):
        client.launch_model(**NAME, model_uid="broken", model_path=str(tmp_path))
    assert "broken" not in client.list_models()


def test_an_abort_frees_the_row_and_ends_the_stream(client: RESTfulClient, local: Local, uid: str):
    stream = client.get_model(uid).chat(STORY, generate_config={**ENDLESS, "stream": True, "request_id": "r1"})
    next(stream)
    assert client.abort_request(uid, "r1") == {"msg": "DONE"}
    assert len(list(stream)) < 500
    # The client may have read all before the front door has put it away.
    until(lambda: client.abort_request(uid, "r1") == {"msg": "NOT_FOUND"}, 10)
    assert client.abort_request("nobody", "r1") == {"msg": "NO_OP"}
    until_nothing_runs(client.describe_model(uid)["address"])


def test_generate_goes_on_where_the_prompt_ends(client: RESTfulClient, uid: str):
    model = client.get_model(uid)
    whole = model.generate(BEGINNING, generate_config=GREEDY)
    assert (whole["object"], whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"]) == ("text_completion", 5, 20)
    assert whole["choices"][0]["text"].startswith(" Paris")
    events = list(model.generate(BEGINNING, generate_config={**GREEDY, "stream": True}))
    assert "".join(texts(events)) == whole["choices"][0]["text"]
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert len(events) > 5
    assert model.generate(BEGINNING, generate_config={"temperature": 0})["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize(
    ("prompt", "config", "words"),
    [
        ("", {}, "the prompt is empty"),
        (BEGINNING, {"echo": True}, "echo is not served yet"),
        (BEGINNING, {"max_tokens": 100_000}, "max_tokens is 100000 and the context window leaves"),
        (BEGINNING, {"repetition_penalty": 1.1}, "repetition_penalty is not served yet"),
        (["one", "two"], {}, "prompt: several prompts in one request"),
    ],
)
def test_a_completion_that_is_refused(client: RESTfulClient, uid: str, local: Local, prompt: Any, config: dict[str, Any], words: str):
    answer = httpx.post(f"{local.url}/v1/completions", json={"model": uid, "prompt": prompt, **config})
    assert answer.status_code == 400
    assert words in answer.json()["error"]["message"]
    with pytest.raises(RuntimeError, match="Failed to generate completion"):
        client.get_model(uid).generate(prompt, generate_config=config)


async def test_the_async_client_launches_lists_describes_and_terminates(caller: AsyncRESTfulClient, uid: str):
    """One launch is waited for and one is not."""
    later = await caller.launch_model(**launch(), model_uid="later", wait_ready=False)
    assert (await caller.describe_model(later))["status"] != "READY", "it was not waited for"
    ready = await caller.launch_model(**launch(), model_uid="at-once", max_num_seqs=4)
    assert (await caller.describe_model(ready))["status"] == "READY"
    while (await caller.describe_model(later))["status"] != "READY":
        assert 0 <= (await caller.get_launch_model_progress(later))["progress"] <= 1
        await asyncio.sleep(0.1)
    listed = await caller.list_models()
    assert {uid, later, ready} <= set(listed)
    described = await caller.describe_model(ready)
    assert described.items() <= listed[ready].items()
    assert (described["model_name"], described["model_ability"]) == ("smollm2-instruct", ["chat", "generate"])
    for name in (later, ready):
        await caller.terminate_model(name)
    assert not {later, ready} & set(await caller.list_models())
    with pytest.raises(RuntimeError, match="Model not found in the model list, uid: later"):
        await caller.describe_model(later)


async def test_the_async_client_chats_and_generates_in_one_batch(caller: AsyncRESTfulClient, uid: str):
    model = await caller.get_model(uid)

    async def gathered(stream: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
        return [event async for event in stream]

    streams = {**GREEDY, "stream": True}
    whole, text, streamed, pieces = await asyncio.gather(
        model.chat(QUESTION, generate_config=GREEDY),
        model.generate(BEGINNING, generate_config=GREEDY),
        gathered(await model.chat(QUESTION, generate_config=streams)),
        gathered(await model.generate(BEGINNING, generate_config={**streams, "stream_options": {"include_usage": True}})),
    )
    assert whole["choices"][0]["message"]["content"] == said(streamed) == "The capital of France is Paris."
    assert text["choices"][0]["text"] == "".join(texts(pieces))
    assert pieces[-1]["usage"] == text["usage"]
    await model.close()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_the_async_client_aborts(caller: AsyncRESTfulClient, uid: str, stream: bool):
    """An answer that is not streamed, too, which its asker is told of."""
    model, name = await caller.get_model(uid), f"async-{stream}"
    config = {**ENDLESS, "stream": stream, "request_id": name}
    asking = asyncio.ensure_future(model.generate("Once upon a time", generate_config=config))
    if stream:
        events = await asking
        await anext(events)
    while (done := await caller.abort_request(uid, name)) != {"msg": "DONE"}:
        assert done == {"msg": "NOT_FOUND"}, "it has not come yet"
        await asyncio.sleep(0.05)
    if stream:
        assert len([event async for event in events]) < 500
    else:
        with pytest.raises(RuntimeError, match="the request was aborted"):
            await asking
    assert await caller.abort_request(uid, name) == {"msg": "NOT_FOUND"}
    await asyncio.to_thread(until_nothing_runs, (await caller.describe_model(uid))["address"])
    await model.close()


async def test_the_async_clients_errors_have_the_reason(caller: AsyncRESTfulClient, uid: str):
    with pytest.raises(RuntimeError, match="already in the model list"):
        await caller.launch_model(**launch(), model_uid=uid)
    with pytest.raises(RuntimeError, match="Model not found in the model list, uid: nobody"):
        await caller.get_model("nobody")
    model = await caller.get_model(uid)
    with pytest.raises(RuntimeError, match="Failed to generate completion"):
        await model.generate(BEGINNING, generate_config={"temperature": 9})
    with pytest.raises(RuntimeError, match="temperature"):
        await model.chat(QUESTION, generate_config={"temperature": 9})
    assert await caller.abort_request("nobody", "r") == {"msg": "NO_OP"}
    await model.close()


def test_a_runtime_that_dies_is_started_again(client: RESTfulClient, local: Local, uid: str):
    (pid,) = local.runtimes()
    os.kill(pid, signal.SIGKILL)
    until(lambda: client.describe_model(uid)["status"] != "READY", 10)
    until(lambda: client.describe_model(uid)["status"] == "READY")
    assert client.get_model(uid).chat(QUESTION, generate_config={"temperature": 0, "max_tokens": 20})["choices"]
