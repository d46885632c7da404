"""`jitney local` as a process: it comes back with its models and leaves no process; the documented example; the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from xinference_client import RESTfulClient

from hub.server import running_hub
from jitney_gateway.catalogue import Catalogue
from support.local import QUESTION, Local, launch, running_local, until
from support.models import save_tiny, smollm2_folder


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    with running_local(tmp_path / "state") as local:
        yield local


def test_models_come_back_after_a_restart_and_no_process_is_left(tmp_path: Path):
    with running_local(tmp_path) as first:
        uid = RESTfulClient(first.url).launch_model(**launch(), model_uid="kept")
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
        RESTfulClient(local.url).launch_model(**launch(), model_uid="orphan")
        (pid,) = local.runtimes()
        local.process.kill()
        until(lambda: not Path(f"/proc/{pid}").exists())


def test_the_documented_example_from_a_hub(tmp_path: Path):
    """qwen1.5-chat, 4, pytorch, none, by cURL, by the client and as it is typed: a tiny model stands on the local hub under its name."""
    with running_hub() as hub:
        hub.repositories["Qwen/Qwen1.5-4B-Chat"] = save_tiny(tmp_path / "tiny", vocab_size=49152)
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        # The real one would need 8 GiB, which not every machine has.
        with running_local(tmp_path / "state", "--no-memory-check", **environment) as local:
            body = {"model_engine": "transformers", "model_name": "qwen1.5-chat", "model_format": "pytorch"}
            said = json.dumps(body | {"size_in_billions": 4, "quantization": "none"})
            headers = ["-H", "accept: application/json", "-H", "Content-Type: application/json"]
            curl = ["curl", "--noproxy", "*", "--silent", "--show-error", "-X", "POST", f"{local.url}/v1/models", *headers, "-d", said]
            launched = subprocess.run(curl, capture_output=True, text=True, check=True, timeout=120)
            assert json.loads(launched.stdout) == {"model_uid": "qwen1.5-chat"}
            answer = RESTfulClient(local.url).get_model("qwen1.5-chat").chat(QUESTION, generate_config={"max_tokens": 4})
            assert answer["usage"]["completion_tokens"] == 4
            pinned = Catalogue.read().find("qwen1.5-chat", "4").revision
            assert f"Qwen/Qwen1.5-4B-Chat/resolve/{pinned}/model.safetensors" in hub.requests
            assert RESTfulClient(local.url).describe_model("qwen1.5-chat")["revision"] == pinned
            RESTfulClient(local.url).terminate_model("qwen1.5-chat")
            uid = RESTfulClient(local.url).launch_model(**body, model_size_in_billions=4, quantization="none")
            assert (uid, RESTfulClient(local.url).describe_model(uid)["status"]) == ("qwen1.5-chat", "READY")
            RESTfulClient(local.url).terminate_model(uid)
            flags = ("--model-engine", "transformers", "-n", "qwen1.5-chat", "-s", "4", "-f", "pytorch", "-q", "none")
            typed = jitney("launch", "-e", local.url, *flags)
            assert (typed.returncode, "Model uid: qwen1.5-chat" in typed.stderr) == (0, True), typed.stderr
            answer = RESTfulClient(local.url).get_model("qwen1.5-chat").chat(QUESTION, generate_config={"max_tokens": 4})
            assert answer["usage"]["completion_tokens"] == 4


def jitney(*arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jitney_gateway.cli", *arguments]
    return subprocess.run(command, input=input, capture_output=True, text=True, check=False, timeout=120)


def test_the_command_line(local: Local):
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
