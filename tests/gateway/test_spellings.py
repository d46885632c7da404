"""What a launch on the command line sends in each spelling of its flags, and what the front door makes of it. No process is started."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from jitney_gateway.cli.client import Client, Failed
from jitney_gateway.cli.main import app
from jitney_gateway.cli.output import Form, show, table
from jitney_gateway.errors import GatewayError
from jitney_gateway.launch import Launch
from jitney_gateway.local.server import unheeded
from support.answers import answering

LEAST = {"model_engine": "transformers", "model_name": "m"}


def ran(*words: str) -> Result:
    return CliRunner().invoke(app, words)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Bodies that would be sent; each launch ends there."""
    bodies: list[dict[str, Any]] = []

    def launch(self: Client, body: dict[str, Any]) -> str:
        bodies.append(body)
        raise Failed("kept")

    monkeypatch.setattr(Client, "launch", launch)
    return bodies


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["-n", "org/x"], "name", "org/x"),
        (["--model-name", "org/x"], "name", "org/x"),
        (["-n", "m", "-en", "Transformers"], "name", "m"),
        (["-n", "m", "--model-engine", "transformers"], "name", "m"),
        (["-n", "m", "-s", "1_8"], "size", "1.8"),
        (["-n", "m", "--size-in-billions", "1.8"], "size", "1.8"),
        (["-n", "m", "-f", "pytorch"], "name", "m"),
        (["-n", "m", "--model-format", "pytorch"], "name", "m"),
        (["-n", "m", "-q", "8-bit"], "quantization", "int8"),
        (["-n", "m", "--quantization", "4-bit"], "quantization", "int4"),
        (["-n", "m", "-r", "2"], "replicas", 2),
        (["-n", "m", "--replica", "3"], "replicas", 3),
        (["-n", "m", "-t", "LLM"], "name", "m"),
        (["-n", "m", "--model-type", "LLM"], "name", "m"),
        (["-n", "m", "-u", "mine"], "uid", "mine"),
        (["-n", "m", "--model-uid", "mine"], "uid", "mine"),
        (["-n", "m", "-mp", "/models/x"], "model_path", "/models/x"),
        (["-n", "m", "--model-path", "/models/x"], "model_path", "/models/x"),
        (["-n", "m", "-ev", "A", "1", "--env", "B", "2"], "envs", {"A": "1", "B": "2"}),
        (["-n", "m", "--trust-remote-code", "true"], "trust_remote_code", True),
        (["-n", "m", "--max_model_len=64"], "max_model_len", 64),
    ],
)
def test_what_is_understood(sent: list[dict[str, Any]], words: list[str], field: str, value: Any):
    ended = ran("launch", "-e", "http://127.0.0.1:9", *words)
    assert (ended.exit_code, "error: kept" in ended.stderr) == (1, True)
    assert getattr(Launch.parse(sent.pop()), field) == value


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-en", "vllm"], "model_engine: the engine is transformers"),
        (["--model-engine", "vllm"], "model_engine: the engine is transformers"),
        (["--model-format", "ggufv2"], "model_format: "),
        (["--quantization", "int3"], "quantization: must be one of"),
        (["--replica", "0"], "replica: must be a whole number"),
        (["-lm", "one", "/path"], "peft_model_config: LoRA"),
        (["--lora-modules", "one", "/path"], "peft_model_config: LoRA"),
        (["-ld", "key", "value"], "peft_model_config: LoRA"),
        (["--image-lora-load-kwargs", "key", "value"], "peft_model_config: LoRA"),
        (["-fd", "key", "value"], "peft_model_config: LoRA"),
        (["--image-lora-fuse-kwargs", "key", "value"], "peft_model_config: LoRA"),
        (["--quantization-config", "load_in_4bit", "true"], "quantization_config: "),
        (["--virtual-env-package", "numpy"], "virtual_env_packages: "),
        (["--virtual-env-find-link", "https://example.org"], "virtual_env_find_links: "),
    ],
)
def test_what_is_refused_by_its_name(sent: list[dict[str, Any]], words: list[str], said: str):
    assert ran("launch", "-e", "http://127.0.0.1:9", "-n", "m", *words).exit_code == 1
    with pytest.raises(GatewayError) as refused:
        Launch.parse(sent.pop())
    assert (refused.value.status, said in refused.value.detail) == (400, True), refused.value.detail


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("replica_config", [{"replica": 0}], "replica_config: replicas are all alike"),
        ("virtual_env_packages", ["numpy"], "virtual_env_packages: models run in the runtime's own environment"),
        ("virtual_env_find_links", ["x"], "virtual_env_find_links: models run in the runtime's own environment"),
        ("enable_thinking", True, "enable_thinking: send chat_template_kwargs with a request"),
    ],
)
def test_what_a_body_may_not_ask_for(field: str, value: Any, said: str):
    with pytest.raises(GatewayError) as refused:
        Launch.parse(LEAST | {field: value})
    assert (refused.value.status, refused.value.detail) == (400, said)


def test_a_size_that_is_no_whole_number():
    assert Launch.parse(LEAST | {"model_size_in_billions": 1.8}).size == "1.8"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, []),
        ({"XINFERENCE_TRANSFORMERS_ENABLE_BATCHING": "1", "XINFERENCE_MODEL_SRC": "HuggingFace"}, []),
        ({"XINFERENCE_TRANSFORMERS_ENABLE_BATCHING": "0"}, ["XINFERENCE_TRANSFORMERS_ENABLE_BATCHING=0 has no effect"]),
        ({"XINFERENCE_MODEL_SRC": "modelscope"}, ["XINFERENCE_MODEL_SRC=modelscope has no effect: models come from the Hugging Face hub"]),
    ],
)
def test_a_variable_of_the_other_server_that_does_nothing_is_told(environment: dict[str, str], words: list[str]):
    assert [said.partition(";")[0].partition(": requests")[0] for said in unheeded(environment)] == words


def test_who_makes_a_key_is_told_where_its_limits_hold():
    told = " ".join(ran("keys", "make", "--help").output.replace("│", " ").split())
    assert told.count("of all front doors together") == 2


def test_a_key_as_yaml():
    told = yaml.safe_load(ran("keys", "make", "x", "-o", "yaml").stdout)
    assert (set(told), told["entry"]["id"]) == ({"key", "entry"}, "x")


def test_findings_as_yaml():
    done = ran("doctor", "-e", "http://nobody.invalid", "-o", "yaml")
    assert (done.exit_code, [check["name"] for check in yaml.safe_load(done.stdout)]) == (1, ["endpoint"])


def test_a_bench_as_yaml():
    answer = (
        b'data: {"choices": [{"delta": {"content": "x"}}]}\n\ndata: {"choices": [], "usage": {"completion_tokens": 7}}\n\ndata: [DONE]\n\n'
    )
    with answering() as server:
        server.answers |= {"/v1/models/m": (200, b"{}"), "/v1/chat/completions": (200, answer)}
        done = ran("bench", "-e", server.url, "-u", "m", "--chats", "2", "-o", "yaml")
    told = yaml.safe_load(done.stdout)
    assert (done.exit_code, told["model"], told["answered"], told["tokens"]) == (0, "m", 2, 14)
    assert set(told["first_token_seconds"]) == {"p50", "p90", "p99", "max"}


def test_yaml_has_every_alphabet_as_it_is(capsys: pytest.CaptureFixture[str]):
    show({"said": "Straße, 日本"}, Form.YAML, table())
    assert capsys.readouterr().out == "said: Straße, 日本\n"
