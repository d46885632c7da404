"""A launch's fields, one by one: what is understood, and what is refused in which words."""

from __future__ import annotations

from typing import Any

import pytest

from jitney_gateway.errors import GatewayError
from jitney_gateway.launch import Launch, size

LEAST = {"model_name": "qwen1.5-chat", "model_engine": "transformers"}
# What xinference-client 4.1.0 sends when a person names a model and nothing else.
NOTHING_ASKED = {
    "model_uid": None, "peft_model_config": None, "model_type": "LLM", "model_size_in_billions": None, "model_format": None,
    "quantization": None, "replica": 1, "n_worker": 1, "n_gpu": "auto", "request_limits": None, "worker_ip": None, "gpu_idx": None,
    "replica_config": None, "model_path": None, "enable_thinking": None, "enable_virtual_env": None, "virtual_env_packages": None,
    "virtual_env_find_links": None, "envs": None,
}  # fmt: skip


def test_the_documented_request():
    body = {"model_engine": "transformers", "model_name": "qwen1.5-chat", "model_format": "pytorch", "size_in_billions": 4}
    assert Launch.parse(body | {"quantization": "none"}) == Launch(name="qwen1.5-chat", size="4")


def test_what_a_client_sends_unasked_asks_for_nothing():
    assert Launch.parse(LEAST | NOTHING_ASKED) == Launch(name="qwen1.5-chat")


@pytest.mark.parametrize(
    ("given", "read"), [(4, "4"), (4.0, "4"), (0.5, "0.5"), ("1_8", "1.8"), ("1.8", "1.8"), ("0_5", "0.5"), ("10", "10")]
)
def test_every_spelling_of_a_size(given: Any, read: str):
    assert size("s", given) == read
    assert Launch.parse(LEAST | {"model_size_in_billions": given}).size == read


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"model_engine": "Transformers"}, "name", "qwen1.5-chat"),
        ({"model_uid": "my-model.1"}, "uid", "my-model.1"),
        ({"quantization": "8-bit"}, "quantization", "int8"),
        ({"quantization": "NONE"}, "quantization", "none"),
        ({"replica": 2}, "replicas", 2),
        ({"n_gpu": 1}, "device", "cuda"),
        ({"n_gpu": 0}, "device", "cpu"),
        ({"n_gpu": None}, "device", "cpu"),
        ({"n_gpu": None, "device": "cuda"}, "device", "cuda"),
        ({"n_gpu": "auto"}, "device", "auto"),
        ({"n_gpu": "auto", "device": "cpu"}, "device", "cpu"),
        ({"n_gpu": 1, "device": "auto"}, "device", "cuda"),
        ({"n_gpu": 0, "device": "cpu"}, "device", "cpu"),
        ({"context_length": 2048, "max_model_len": 2048}, "max_model_len", 2048),
        ({"max_num_seqs": 32}, "max_num_seqs", 32),
        ({"context_length": 2048}, "max_model_len", 2048),
        ({"torch_dtype": "float32"}, "dtype", "float32"),
        ({"trust_remote_code": True}, "trust_remote_code", True),
        ({"envs": {"HF_TOKEN": "x"}}, "envs", {"HF_TOKEN": "x"}),
        ({"model_path": "/models/x"}, "model_path", "/models/x"),
        ({"model_size_in_billions": 4, "size_in_billions": "4"}, "size", "4"),
    ],
)
def test_what_is_understood(given: dict[str, Any], field: str, value: Any):
    assert getattr(Launch.parse(LEAST | given), field) == value


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "the body must be a JSON object"),
        ({"model_engine": "transformers"}, "specify the `model_name` field"),
        ({"model_name": ""}, "specify the `model_name` field"),
        ({"model_name": "x"}, "specify the `model_engine` field"),
        (LEAST | {"model_engine": "vllm"}, "model_engine: the engine is transformers, not 'vllm'"),
        (LEAST | {"model_format": "ggufv2"}, "model_format: "),
        (LEAST | {"model_type": "embedding"}, "model_type: only chat models"),
        (LEAST | {"model_size_in_billions": "big"}, "model_size_in_billions: must be billions"),
        (LEAST | {"size_in_billions": 0}, "size_in_billions: must be billions"),
        (LEAST | {"size_in_billions": True}, "size_in_billions: must be billions"),
        (LEAST | {"size_in_billions": 4, "model_size_in_billions": 7}, "says another size"),
        (LEAST | {"model_uid": "../x"}, "model_uid: must be at most 100"),
        (LEAST | {"model_uid": 5}, "model_uid: must be at most 100"),
        (LEAST | {"quantization": "int3"}, "quantization: must be one of"),
        (LEAST | {"replica": 0}, "replica: must be a whole number from 1 to 1000"),
        (LEAST | {"replica": True}, "replica: must be a whole number"),
        (LEAST | {"max_num_seqs": "16"}, "max_num_seqs: must be a whole number"),
        (LEAST | {"n_gpu": 2}, "n_gpu: a model is served on one GPU"),
        (LEAST | {"n_worker": 2}, "n_worker: "),
        (LEAST | {"n_worker": True}, "n_worker: a model is served by one runtime"),
        (LEAST | {"enable_virtual_env": 0}, "enable_virtual_env: "),
        (LEAST | {"n_gpu": 1, "device": "cpu"}, "device: n_gpu says something else: give one of the two"),
        (LEAST | {"context_length": 2048, "max_model_len": 4096}, "max_model_len: context_length says something else"),
        (LEAST | {"envs": {"A": 1}}, "envs: must map"),
        (LEAST | {"envs": {"A=B": "x"}}, "envs: 'A=B' can be no variable's name"),
        (LEAST | {"envs": {"": "x"}}, "envs: '' can be no variable's name"),
        (LEAST | {"envs": {"A": "x\0"}}, "envs: the value of A holds a zero"),
        (LEAST | {"revision": "v1\0"}, "revision: no character of it may be a zero"),
        (LEAST | {"model_path": "/x\ud800"}, "model_path: no character of it may be a zero or half"),
        (LEAST | {"model_name": "x" * 513}, "model_name: must be a text of at most 512 characters"),
        (LEAST | {"model_name": "x\0"}, "model_name: must be a text"),
        (LEAST | {"worker_ip": "10.0.0.1"}, "worker_ip: there are no workers"),
        (LEAST | {"gpu_idx": [0]}, "gpu_idx: "),
        (LEAST | {"peft_model_config": {"lora_list": []}}, "peft_model_config: LoRA"),
        (LEAST | {"quantization_config": {"load_in_4bit": True}}, "quantization_config: say quantization: int8 or int4 instead"),
        (LEAST | {"request_limits": 5}, "request_limits: "),
        (LEAST | {"enable_virtual_env": True}, "enable_virtual_env: "),
        (LEAST | {"download_hub": "modelscope"}, "download_hub: "),
        (LEAST | {"max_num_seq": 16}, "max_num_seq: this is no parameter of a launch"),
    ],
)
def test_what_is_refused_by_its_name(body: Any, said: str):
    with pytest.raises(GatewayError) as refused:
        Launch.parse(body)
    assert refused.value.status == 400
    assert said in refused.value.detail


@pytest.mark.parametrize(
    ("launch", "uid"),
    [
        (Launch("qwen1.5-chat"), "qwen1.5-chat"),
        (Launch("Qwen/Qwen2.5-0.5B-Instruct"), "Qwen2.5-0.5B-Instruct"),
        (Launch("../x"), "x"),
        (Launch("Qwen/Qwen2.5", uid="mine"), "mine"),
    ],
)
def test_the_uid_is_the_last_part_of_the_name(launch: Launch, uid: str):
    assert launch.wanted_uid() == uid


@pytest.mark.parametrize("name", ["org/", "org/..", "org/.hidden", "a b", "x" * 101])
def test_a_name_that_can_be_no_uid_needs_one(name: str):
    with pytest.raises(GatewayError, match="model_uid: without one it is the last part of model_name"):
        Launch(name).wanted_uid()
