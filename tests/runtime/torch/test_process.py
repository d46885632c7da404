"""The real process: a real model, real signals, real exit codes and termination lines."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import httpx
import pytest
import torch

from jitney_runtime import errors
from support.hub import Hub, running_hub
from support.models import smollm2_folder, tiny_model
from support.process import RuntimeProcess, running_runtime

QUESTION = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}


@pytest.fixture(scope="module")
def smollm2_process(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("runtime")
    with running_runtime(folder, "--model", str(smollm2_folder()), "--served-model-name", "smollm2", "--max-model-len", "2048") as runtime:
        seen = runtime.wait_ready()
        assert seen[0]["status"] == "starting"
        assert any(re.fullmatch(r"loading \d+ %|warming up", status.get("progress", "")) for status in seen), seen
        yield runtime


def ask(runtime: RuntimeProcess, **body: object) -> dict[str, object]:
    answer = httpx.post(f"{runtime.url}/v1/chat/completions", json={"model": "smollm2", **QUESTION, **body}, timeout=60)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_it_answers(smollm2_process: RuntimeProcess):
    choice = ask(smollm2_process, max_tokens=30)["choices"][0]  # type: ignore[index]
    assert "Paris" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"


def test_a_seed_repeats_an_answer(smollm2_process: RuntimeProcess):
    first, again, other = (ask(smollm2_process, max_tokens=20, temperature=1, seed=seed)["choices"] for seed in (7, 7, 8))
    assert first == again != other


async def test_sixteen_chats_share_a_batch_and_each_answer_equals_its_solo_answer(smollm2_process: RuntimeProcess):
    questions = [f"Name one fact about the number {number}." for number in range(16)]
    url = f"{smollm2_process.url}/v1/chat/completions"

    async def chat(client: httpx.AsyncClient, question: str) -> str:
        messages = [{"role": "user", "content": question}]
        body = {"model": "smollm2", "messages": messages, "temperature": 0, "max_tokens": 24, "ignore_eos": True}
        return str((await client.post(url, json=body)).json()["choices"][0]["message"]["content"])

    def counts() -> tuple[float, float]:
        text = httpx.get(f"{smollm2_process.url}/metrics").text
        found = {name: float(re.search(rf"^{name}{{.*}} (.+)$", text, re.M)[1]) for name in NAMES}  # type: ignore[index]
        return found[NAMES[0]], found[NAMES[1]]

    async with httpx.AsyncClient(timeout=120) as client:
        alone = [await chat(client, question) for question in questions]
        steps_before, tokens_before = counts()
        together = await asyncio.gather(*(chat(client, question) for question in questions))
    steps, tokens = (after - before for after, before in zip(counts(), (steps_before, tokens_before), strict=True))
    print(f"{steps:.0f} steps made {tokens:.0f} tokens")
    assert tokens == 16 * 24
    assert steps < tokens / 4
    assert list(together) == alone


NAMES = ("jitney_step_seconds_count", "jitney_generation_tokens_total")


async def test_sigterm_finishes_the_answer_in_flight_takes_requests_for_a_while_and_then_refuses(tmp_path: Path):
    arguments = ("--model", str(smollm2_folder()), "--served-model-name", "smollm2", "--max-model-len", "1024", "--drain-seconds", "60")
    with running_runtime(tmp_path, *arguments) as runtime:
        await asyncio.to_thread(runtime.wait_ready)
        body = {"model": "smollm2", **QUESTION, "max_tokens": 400, "ignore_eos": True, "stream": True}
        async with (
            httpx.AsyncClient(timeout=120) as client,
            client.stream("POST", f"{runtime.url}/v1/chat/completions", json=body) as stream,
        ):
            lines = stream.aiter_lines()
            await anext(lines)
            runtime.terminate()
            short = {"model": "smollm2", **QUESTION, "max_tokens": 2}
            statuses, readiness = [], []
            for _ in range(200):
                readiness.append((await client.get(f"{runtime.url}/readyz")).status_code)
                late = await client.post(f"{runtime.url}/v1/chat/completions", json=short)
                statuses.append(late.status_code)
                if late.status_code == 503:
                    break
                await asyncio.sleep(0.05)
            assert late.headers["connection"] == "close"
            assert statuses[0] == 200
            assert 503 in readiness
            chunks = [json.loads(line[6:]) async for line in lines if line.startswith("data: {")]
            assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert await asyncio.to_thread(runtime.wait_exit, 30) == 0


def start_error(tmp_path: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    with running_runtime(tmp_path, *arguments, **environment) as runtime:
        return runtime.wait_exit(), runtime.termination_line


def test_a_model_folder_that_is_not_there(tmp_path: Path):
    code, line = start_error(tmp_path, "--model", "/no/such/model")
    assert (code, line) == (10, "ModelNotFound: there is no folder /no/such/model: check the path inside the claim or image")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, so the device is found")
def test_a_gpu_that_is_not_there(tmp_path: Path):
    code, line = start_error(tmp_path, "--model", str(smollm2_folder()), "--device", "cuda")
    assert code == 16
    assert line.startswith("DeviceNotFound: this pod was asked to use a GPU and CUDA finds none")


def test_a_context_window_that_no_memory_can_hold(tmp_path: Path):
    code, line = start_error(tmp_path, "--model", str(smollm2_folder()), "--max-model-len", "8192", "--kv-cache-memory", "10Mi")
    assert code == 14
    assert "lower maxModelLen" in line


def test_a_context_window_beyond_the_models(tmp_path: Path):
    code, line = start_error(tmp_path, "--model", str(smollm2_folder()), "--max-model-len", "9000")
    assert code == 17
    assert "8192" in line


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model("qwen2", "sdpa").save_pretrained(folder)
    for file in smollm2_folder().glob("*.j*"):
        if file.name not in ("config.json", "generation_config.json"):
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture
def hub(tiny_folder: Path):
    with running_hub() as hub:
        hub.repositories["org/tiny"] = tiny_folder
        hub.refused |= {"org/gated": (403, "GatedRepo"), "org/private": (401, "RepoNotFound")}
        yield hub


def hub_environment(hub: Hub | None, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}


def test_a_model_from_the_hub_is_downloaded_and_served(hub: Hub, tmp_path: Path):
    with running_runtime(tmp_path, "--model", "hf://org/tiny", **hub_environment(hub, tmp_path)) as runtime:
        runtime.wait_ready()
        (model,) = httpx.get(f"{runtime.url}/v1/models").json()["data"]
        assert (model["id"], model["max_model_len"]) == ("tiny", 256)
    assert any(path.endswith("model.safetensors") for path in hub.requests)


@pytest.mark.parametrize(
    ("repository", "arguments", "error", "said"),
    [
        ("org/absent", (), errors.ModelNotFound, "the hub has no repository org/absent"),
        ("org/tiny", ("--revision", "v9"), errors.ModelNotFound, "has no revision 'v9'"),
        ("org/gated", (), errors.Unauthorized, "org/gated is gated"),
        ("org/private", (), errors.Unauthorized, "check hfTokenSecretRef"),
    ],
    ids=["absent", "revision", "gated", "private"],
)
def test_what_the_hub_refuses(
    hub: Hub, tmp_path: Path, repository: str, arguments: tuple[str, ...], error: type[errors.StartError], said: str
):
    code, line = start_error(tmp_path, "--model", repository, *arguments, **hub_environment(hub, tmp_path))
    assert code == error.exit_code
    assert line.startswith(f"{error.__name__}: ")
    assert said in line


def test_a_hub_that_cannot_be_reached(tmp_path: Path):
    code, line = start_error(tmp_path, "--model", "org/tiny", **hub_environment(None, tmp_path))
    assert (code, line.split(":")[0]) == (12, "HubUnreachable")
