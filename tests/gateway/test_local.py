"""`jitney local` as its users meet it: the published xinference-client, the real process, the real model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from xinference_client import RESTfulClient

from cluster import ports
from hub.server import running_hub
from support.models import save_tiny, smollm2_folder

T = TypeVar("T")
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
NAME = {"model_engine": "transformers", "model_name": "smollm2-instruct", "model_format": "pytorch", "model_size_in_billions": "0_135"}


@dataclass
class Local:
    """A running `jitney local`."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def runtimes(self) -> list[int]:
        """Ids of the model processes."""
        command = ["pgrep", "--parent", str(self.process.pid)]
        return [int(word) for word in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()]


def until(question: Callable[[], T | None], seconds: float = 60) -> T:
    end = time.monotonic() + seconds
    while not (found := question()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.1)
    return found


@contextmanager
def running_local(folder: Path, *flags: str, **environment: str) -> Iterator[Local]:
    port = ports.free(1)[0]
    command = [sys.executable, "-m", "jitney_gateway.cli", "local", "--port", str(port), "--state-dir", str(folder), *flags]
    folder.mkdir(exist_ok=True)
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
        local = Local(process, f"http://127.0.0.1:{port}", folder)
        try:
            until(lambda: process.poll() is not None or _answers(local.url))
            yield local
        finally:
            process.terminate()
            process.wait(60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with running_local(tmp_path_factory.mktemp("local")) as local:
        yield local


@pytest.fixture(scope="module")
def client(local: Local) -> RESTfulClient:
    return RESTfulClient(local.url)


@pytest.fixture(scope="module")
def uid(client: RESTfulClient) -> str:
    """A model that is ready when launch_model returns, as there."""
    return client.launch_model(**NAME, quantization="none", model_path=str(smollm2_folder()), max_num_seqs=16)


def test_the_default_uid_is_the_name(uid: str):
    assert uid == "smollm2-instruct"


def test_chat_is_used_as_before(client: RESTfulClient, uid: str):
    answer = client.get_model(uid).chat(QUESTION, generate_config={"temperature": 0, "max_tokens": 20})
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert answer["usage"]["completion_tokens"] == 8


def test_a_stream_is_used_as_before(client: RESTfulClient, uid: str):
    events = list(client.get_model(uid).chat(QUESTION, generate_config={"temperature": 0, "max_tokens": 20, "stream": True}))
    pieces = [event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"]]
    assert "".join(pieces) == "The capital of France is Paris."
    assert len(pieces) > 5


def test_models_are_listed_and_described(client: RESTfulClient, uid: str):
    listed = client.list_models()[uid]
    assert (listed["id"], listed["model_type"], listed["model_size_in_billions"]) == (uid, "LLM", "0_135")
    described = client.describe_model(uid)
    assert described["model_ability"] == ["chat"]
    assert described["model_engine"] == "Transformers"
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
        client.launch_model(**NAME, model_uid=uid, model_path=str(smollm2_folder()))


def test_a_model_that_fails_to_load_is_told_and_not_left_behind(client: RESTfulClient, local: Local, tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing-known"}')
    with pytest.raises(RuntimeError, match="NotSupportedYet"):
        client.launch_model(**NAME, model_uid="broken", model_path=str(tmp_path))
    assert "broken" not in client.list_models()


def test_an_abort_frees_the_row_and_ends_the_stream(client: RESTfulClient, local: Local, uid: str):
    config = {"temperature": 1, "max_tokens": 2000, "stream": True, "request_id": "r1"}
    stream = client.get_model(uid).chat([{"role": "user", "content": "Write a very long story."}], generate_config=config)
    next(stream)
    assert client.abort_request(uid, "r1") == {"msg": "DONE"}
    assert len(list(stream)) < 500
    assert client.abort_request(uid, "r1") == {"msg": "NOT_FOUND"}
    assert client.abort_request("nobody", "r1") == {"msg": "NO_OP"}
    address = client.describe_model(uid)["address"]
    running = re.compile(r"^jitney_requests_running\{.*\} 0\.0$", re.MULTILINE)
    until(lambda: running.search(httpx.get(f"{address}/metrics").text))


def test_a_runtime_that_dies_is_started_again(client: RESTfulClient, local: Local, uid: str):
    (pid,) = local.runtimes()
    os.kill(pid, signal.SIGKILL)
    until(lambda: client.describe_model(uid)["status"] != "READY", 10)
    until(lambda: client.describe_model(uid)["status"] == "READY")
    assert client.get_model(uid).chat(QUESTION, generate_config={"temperature": 0, "max_tokens": 20})["choices"]


def test_models_come_back_after_a_restart_and_no_process_is_left(tmp_path: Path):
    with running_local(tmp_path) as first:
        uid = RESTfulClient(first.url).launch_model(**NAME, model_uid="kept", model_path=str(smollm2_folder()))
        (before,) = first.runtimes()
    assert first.process.returncode == 0, first.log
    assert not Path(f"/proc/{before}").exists()
    with running_local(tmp_path) as second:
        client = RESTfulClient(second.url)
        until(lambda: client.describe_model(uid)["status"] == "READY")
        client.terminate_model(uid)
        assert not client.list_models()
        assert not second.runtimes()
    with running_local(tmp_path) as third:
        assert not RESTfulClient(third.url).list_models()


def test_a_server_that_is_killed_leaves_no_process(tmp_path: Path):
    with running_local(tmp_path) as local:
        RESTfulClient(local.url).launch_model(**NAME, model_uid="orphan", model_path=str(smollm2_folder()))
        (pid,) = local.runtimes()
        local.process.kill()
        until(lambda: not Path(f"/proc/{pid}").exists())


def test_the_documented_example_from_a_hub(tmp_path: Path):
    """qwen1.5-chat, 4, pytorch, none: a tiny model stands on the local hub under its name."""
    with running_hub() as hub:
        hub.repositories["Qwen/Qwen1.5-4B-Chat"] = save_tiny(tmp_path / "tiny", vocab_size=49152)
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        # The real one would need 17 GiB, which not every machine has.
        with running_local(tmp_path / "state", "--no-memory-check", **environment) as local:
            body = {"model_engine": "transformers", "model_name": "qwen1.5-chat", "model_format": "pytorch"}
            launched = httpx.post(f"{local.url}/v1/models", json=body | {"size_in_billions": 4, "quantization": "none"}, timeout=120)
            assert launched.json() == {"model_uid": "qwen1.5-chat"}
            answer = RESTfulClient(local.url).get_model("qwen1.5-chat").chat(QUESTION, generate_config={"max_tokens": 4})
            assert answer["usage"]["completion_tokens"] == 4


def jitney(*arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jitney_gateway.cli", *arguments]
    return subprocess.run(command, input=input, capture_output=True, text=True, check=False, timeout=120)


def test_the_command_line(local: Local, tmp_path: Path):
    flags = ["-e", local.url]
    launched = jitney(
        "launch", *flags, "--model-engine", "transformers", "-n", "smollm2-instruct", "-u", "shell", "-s", "0_135", "-f", "pytorch",
        "-q", "none", "--model-path", str(smollm2_folder()), "--max_num_seqs", "8",
    )  # fmt: skip
    assert launched.returncode == 0, launched.stderr
    assert "Model uid: shell" in launched.stderr
    listed = jitney("list", *flags, "-o", "json")
    assert "shell" in {model["id"] for model in json.loads(listed.stdout)}
    said = jitney("chat", *flags, "--model-uid", "shell", "--max_tokens", "8", input="What is two plus two?\n/quit\n")
    assert said.returncode == 0, said.stderr
    assert re.search(r"Assistant: \S+", said.stdout)
    assert jitney("terminate", *flags, "--model-uid", "shell").returncode == 0
    gone = jitney("terminate", *flags, "--model-uid", "shell")
    assert gone.returncode == 1
    assert "uid: shell" in gone.stderr
    failed = jitney("launch", *flags, "-n", "smollm2-instruct", "-s", "0_135", "--model-path", "/nowhere")
    assert failed.returncode == 1
    assert "there is no folder /nowhere" in failed.stderr
    nobody = jitney("list", "-e", "http://127.0.0.1:9")
    assert nobody.returncode == 1
    assert "does not answer" in nobody.stderr


def test_without_keys_only_this_machine_may_call():
    refused = jitney("local", "--host", "0.0.0.0")
    assert refused.returncode == 1
    assert "only this machine may call" in refused.stderr
