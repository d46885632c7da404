"""README's commands, run as they stand there. `make demo` is run by the cluster suite."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import yaml

from hub.server import running_hub
from support.front_door import PORT, usual_port
from support.models import save_tiny

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
URL = "http://127.0.0.1:8000"


def blocks() -> list[str]:
    """The indented blocks."""
    found = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}))+", README, re.MULTILINE)
    return [re.sub(r"^ {4}", "", block, flags=re.MULTILINE).strip() for block in found]


def the_block(start: str) -> str:
    (block,) = [block for block in blocks() if block.startswith(start)]
    return block


@contextmanager
def running(command: list[str], folder: Path, port: int = 8000, **environment: str) -> Iterator[Path]:
    """A server that README starts, with everything it starts in turn; the path of what it prints."""
    assert not listening(port), f"something else listens on port {port}, which README's commands use"
    output = folder / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=file, env=os.environ | environment, start_new_session=True, stdin=subprocess.DEVNULL
        )
    try:
        yield output
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
        # `make` is gone before the server that it ran: giving its memory back takes a moment.
        end = time.monotonic() + 30
        while listening(port) and time.monotonic() < end:
            time.sleep(0.05)


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_ready(output: Path, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if httpx.get(f"{URL}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"not ready:\n{output.read_text()[-3000:]}")


def wait_open(output: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while "Uvicorn running on" not in output.read_text():
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.2)


def test_make_serve_and_the_curl_line_below_it(tmp_path: Path):
    assert the_block("make serve") == "make serve"
    with running(["make", "serve"], tmp_path) as output:
        wait_ready(output)
        done = subprocess.run(["bash", "-c", the_block("curl")], capture_output=True, text=True, timeout=120, check=True)
    assert "Paris" in done.stdout


def test_a_model_of_your_own(tmp_path: Path):
    """The command's repository comes from a hub on this machine."""
    command = shlex.split(the_block(".venv/bin/jitney-runtime"))
    repository = command[command.index("--model") + 1]
    with running_hub() as hub:
        hub.repositories[repository] = save_tiny(tmp_path / "model", vocab_size=49152)
        cache = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        with running(command, tmp_path, **cache) as output:
            wait_ready(output)
            body = {"model": repository.split("/")[1], "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
            assert httpx.post(f"{URL}/v1/chat/completions", json=body, timeout=60).status_code == 200


def test_every_verb_it_names_exists():
    verbs = set(re.findall(r"\bmake (?:-s )?([a-z][a-z0-9-]+)", "\n".join([*blocks(), *re.findall(r"`([^`]+)`", README)])))
    assert {"demo", "demo-down", "serve", "test", "e2e", "check", "bench", "help"} <= verbs
    shown = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert not {verb for verb in verbs if f"  {verb} " not in shown}


def test_its_manifest_is_the_example():
    example = yaml.safe_load((ROOT / "examples" / "smollm2.yaml").read_text())
    shown = yaml.safe_load(the_block("apiVersion:"))
    assert shown["spec"] == example["spec"]
    assert shown["metadata"]["name"] == example["metadata"]["name"]


def test_every_file_it_links_to_exists():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_several_models_on_this_machine(tmp_path: Path):
    serve, *commands = the_block(".venv/bin/jitney local").splitlines()
    with usual_port(), running_hub() as hub:
        hub.repositories["Qwen/Qwen2.5-0.5B-Instruct"] = save_tiny(tmp_path / "tiny", vocab_size=49152)
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "XDG_STATE_HOME": str(tmp_path)}
        with running(shlex.split(serve), tmp_path, PORT, **environment) as output:
            wait_open(output)
            for command in commands:
                done = subprocess.run(
                    shlex.split(command), cwd=ROOT, input="Hello\n/quit\n", capture_output=True, text=True, timeout=120, check=False
                )
                assert done.returncode == 0, done.stderr + output.read_text()
            assert "Assistant: " in done.stdout


def test_coming_from_xinference(tmp_path: Path):
    """The three ways and the registrations; the repository comes from a hub on this machine, and the file from its folder."""
    serve, *ways = the_block("# The server. There:").split("\n\n")
    own = the_block("# There: xinference register").replace("my.json", str(tmp_path / "my.json"))
    with usual_port(), running_hub() as hub:
        hub.repositories["Qwen/Qwen1.5-0.5B-Chat"] = model = save_tiny(tmp_path / "tiny", vocab_size=49152)
        spec = {"model_format": "pytorch", "model_size_in_billions": "0_01", "model_uri": f"file://{model}"}
        (tmp_path / "my.json").write_text(json.dumps({"model_name": "NAME", "model_specs": [spec]}))
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "XDG_STATE_HOME": str(tmp_path)}
        with running(["bash", "-c", serve], tmp_path, PORT, **environment) as output:
            wait_open(output)
            for commands in (*ways, own):
                done = subprocess.run(["bash", "-ec", commands], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
                assert done.returncode == 0, done.stderr + output.read_text()
            # curl ends with 0 whatever it was answered.
            listed = httpx.get(f"http://127.0.0.1:{PORT}/v1/models").json()["data"]
            assert {model["id"]: model["status"] for model in listed} == dict.fromkeys(("by-cli", "by-curl", "by-python"), "READY")
