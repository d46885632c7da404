"""OpenAI's own client as its users call it, on a port of this machine, with words that are fake."""

from __future__ import annotations

from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI

from support.rig import Rig
from support.serving import served


@pytest.fixture
async def client(rig: Rig) -> AsyncIterator[AsyncOpenAI]:
    async with served(rig.app) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=30) as client:
        yield client


async def test_a_chat_whole_and_streamed(client: AsyncOpenAI):
    messages = [{"role": "user", "content": "hi"}]
    whole = await client.chat.completions.create(model="fake", messages=messages, temperature=0, max_completion_tokens=5, user="ann", n=1)
    message = whole.choices[0].message
    assert (whole.object, whole.model, whole.system_fingerprint, whole.choices[0].index) == ("chat.completion", "fake", None, 0)
    assert (message.role, message.refusal, message.tool_calls, whole.choices[0].finish_reason) == ("assistant", None, None, "length")
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (8, 5, 13)
    stream = await client.chat.completions.create(
        model="fake", messages=messages, temperature=0, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == message.content
    assert (chunks[-1].choices[0].finish_reason, last.usage, last.choices) == ("length", whole.usage, [])
    assert (chunks[0].choices[0].delta.role, {chunk.id for chunk in chunks}) == ("assistant", {last.id})


async def test_its_answer_is_sent_back_as_it_came(client: AsyncOpenAI):
    """Its whole object or its dump: both have fields that are null."""
    turns = [{"role": "user", "content": "hi"}]
    answer = await client.chat.completions.create(model="fake", messages=turns, max_tokens=3)
    for said in (answer.choices[0].message, answer.choices[0].message.model_dump()):
        again = await client.chat.completions.create(model="fake", messages=[*turns, said, *turns], max_tokens=3)
        assert again.usage.prompt_tokens == 2 * 8 + len("assistant:\n") + 3


async def test_its_own_stream_helper_puts_the_answer_together(client: AsyncOpenAI, rig: Rig):
    rig.runner.spoken = rig.tokenizer.encode("one stop")
    async with client.chat.completions.stream(model="fake", messages=[{"role": "user", "content": "hi"}], stop="stop") as stream:
        whole = await stream.get_final_completion()
    assert (whole.choices[0].message.content, whole.choices[0].message.refusal) == ("one ", None)
    assert whole.choices[0].finish_reason == "stop"


async def test_a_completion_whole_and_streamed(client: AsyncOpenAI):
    whole = await client.completions.create(model="fake", prompt="user:hi\n", temperature=0, max_tokens=5, best_of=1, logit_bias={})
    stream = await client.completions.create(model="fake", prompt="user:hi\n", temperature=0, max_tokens=5, stream=True)
    assert (whole.object, whole.choices[0].index, whole.choices[0].logprobs, whole.usage.total_tokens) == ("text_completion", 0, None, 13)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == whole.choices[0].text


async def test_models_are_listed(client: AsyncOpenAI):
    assert [model.id async for model in client.models.list()] == ["fake"]


async def test_a_refusal_has_the_fields_name(client: AsyncOpenAI):
    ask = client.chat.completions.create
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(openai.BadRequestError) as refused:
        await ask(model="fake", messages=messages, logprobs=True)
    assert (refused.value.param, refused.value.code, refused.value.type) == ("logprobs", "invalid_request", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="did you mean temperature"):
        await ask(model="fake", messages=messages, extra_body={"temprature": 1})
    with pytest.raises(openai.NotFoundError, match="this server serves 'fake'"):
        await ask(model="other", messages=messages)
