"""The process that holds the model, when one of the two ends and the other does not know yet."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import httpx

from cluster.kubectl import wait_for
from support.models import save_tiny
from support.process import RuntimeProcess, running_runtime
from support.stuck import downloading_for_ever

CHAT = {"model": "m", "prompt": "a b c", "max_tokens": 240, "ignore_eos": True, "stream": True}

# Ends its process when there is a sign. Only who computes makes the model.
OWN = """
import os, threading, time
from transformers import Qwen2Config, Qwen2ForCausalLM

class OwnConfig(Qwen2Config):
    model_type = "own"

class OwnForCausalLM(Qwen2ForCausalLM):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        threading.Thread(target=self.wait, daemon=True).start()

    def wait(self):
        while not os.path.exists("SIGN"):
            time.sleep(0.01)
        print("no table", flush=True)
        os._exit(7)
"""


def serving(folder: Path) -> tuple[str, ...]:
    return ("--model", str(save_tiny(folder / "model")), "--served-model-name", "m", "--device", "cpu")


def over(pid: int) -> bool:
    """A zombie is: whoever made it may be gone as well."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except FileNotFoundError:
        return True


def killed(runtime: RuntimeProcess, folder: Path) -> None:
    """As the kernel does it when memory runs out: nobody has words for it, and the exit code says what it was."""
    assert runtime.wait_exit(30) == 128 + signal.SIGKILL
    assert not (folder / "termination").exists()
    assert "the engine's process was ended by SIGKILL" in runtime.log


def test_killed_while_it_answers(tmp_path: Path):
    """Who is being answered is told so, and the server goes the same way."""
    with running_runtime(tmp_path, *serving(tmp_path)) as runtime:
        runtime.wait_ready()
        with httpx.stream("POST", f"{runtime.url}/v1/completions", json=CHAT, timeout=60) as stream:
            lines = (line for line in stream.iter_lines() if line)
            next(lines)
            os.kill(runtime.engine, signal.SIGKILL)
            last = list(lines)[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_error"
        killed(runtime, tmp_path)


def test_killed_while_it_loads(tmp_path: Path):
    with downloading_for_ever(tmp_path) as (runtime, _):
        os.kill(runtime.engine, signal.SIGKILL)
        killed(runtime, tmp_path)


def test_what_ends_by_itself_has_the_last_word(tmp_path: Path):
    """Code that comes with a model may end the process: Kubernetes takes the log's last lines where nobody writes another."""
    model = tmp_path / "model"
    model.mkdir()
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}, "architectures": ["OwnForCausalLM"]}
    (model / "config.json").write_text(json.dumps(config))
    (model / "own.py").write_text("import os, sys\nprint('no table', file=sys.stderr, flush=True)\nos._exit(3)\n")
    (model / "model.safetensors").write_bytes(b"none")
    with running_runtime(tmp_path, "--model", str(model), "--trust-remote-code") as runtime:
        assert runtime.wait_exit() == 3
    assert not (tmp_path / "termination").exists()
    assert runtime.log.splitlines()[-1] == "no table"


def test_what_ends_while_many_are_answered_has_the_last_word(tmp_path: Path):
    """A thread of the model's own code, say. Nobody's answer hangs, and nothing is logged behind its words."""
    model, sign = save_tiny(tmp_path / "model", max_position_embeddings=32768), tmp_path / "sign"
    own = {"auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}, "model_type": "own"}
    config = json.loads((model / "config.json").read_text()) | own | {"architectures": ["OwnForCausalLM"]}
    (model / "config.json").write_text(json.dumps(config))
    (model / "own.py").write_text(OWN.replace("SIGN", str(sign)))
    with running_runtime(tmp_path, "--model", str(model), "--served-model-name", "m", "--device", "cpu", "--trust-remote-code") as runtime:
        runtime.wait_ready()
        with ExitStack() as stack:
            body = {**CHAT, "max_tokens": 32000}
            asked = [httpx.stream("POST", f"{runtime.url}/v1/completions", json=body, timeout=60) for _ in range(8)]
            answers = [(line for line in stack.enter_context(stream).iter_lines() if line) for stream in asked]
            for answer in answers:
                next(answer)
            sign.touch()
            for answer in answers:
                assert json.loads(list(answer)[-1].removeprefix("data: "))["error"]["code"] == "engine_error"
        assert runtime.wait_exit(30) == 7
    assert not (tmp_path / "termination").exists()
    assert runtime.log.splitlines()[-1] == "no table"


def test_it_does_not_outlive_the_first(tmp_path: Path):
    with running_runtime(tmp_path, *serving(tmp_path)) as runtime:
        runtime.wait_ready()
        engine = runtime.engine
        runtime.process.kill()
        wait_for(lambda: over(engine), 10, "the end of the engine's process")


def test_a_signal_is_the_first_ones(tmp_path: Path):
    """A terminal sends it to both."""
    with running_runtime(tmp_path, *serving(tmp_path)) as runtime:
        runtime.wait_ready()
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(runtime.engine, number)
        body = {**CHAT, "stream": False, "max_tokens": 4}
        assert httpx.post(f"{runtime.url}/v1/completions", json=body, timeout=60).status_code == 200
        engine = runtime.engine
        runtime.terminate()
        assert runtime.wait_exit(30) == 0
        # Whoever sees the first one end counts the memory of both as free.
        assert over(engine)
