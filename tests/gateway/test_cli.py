"""The console script against a real `jitney local` with the real model: launch, list, describe, logs, bench, terminate."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from xinference_client import RESTfulClient

from jitney_gateway.cli.bench import percentile
from support.answers import Server, answering
from support.console import SCRIPT, fails, jitney, surroundings, terminal
from support.local import Local, launch, until
from support.models import smollm2_folder


@pytest.fixture(scope="module")
def flags() -> list[str]:
    """Of a launch of the real model, in Xinference's spellings."""
    words = ["--model-engine", "transformers", "-n", "smollm2-instruct", "-s", "0_135", "-f", "pytorch", "-q", "none", "-t", "LLM"]
    return [*words, "-r", "1", "--n-worker", "1", "--n-gpu", "none", "--model-path", str(smollm2_folder())]


@pytest.fixture(scope="module")
def uid(local: Local, flags: list[str]) -> str:
    words = ["-ev", "HF_HUB_VERBOSITY", "info", "-ev", "SOME_WORD", "a=b", "--max_num_seqs", "3", "--trust-remote-code", "false"]
    launched = jitney("launch", "-e", local.url, *flags, "-u", "talker", *words, "--disable-virtual-env")
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout == ""
    assert launched.stderr.splitlines()[-1] == "Model uid: talker"
    return "talker"


@pytest.fixture
def front_door() -> Iterator[Server]:
    """One whose models stand as a test says."""
    with answering() as server:
        server.answers = {"/v1/models?wait_ready=false": (200, b'{"model_uid": "still"}')}
        yield server


# Launch


def test_what_a_launch_asks_for_reaches_the_runtime(local: Local, uid: str):
    (pid,) = local.runtimes()
    arguments = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    assert arguments[arguments.index("--max-num-seqs") + 1] == "3"
    assert "--trust-remote-code" not in arguments
    assert "SOME_WORD=a=b" in Path(f"/proc/{pid}/environ").read_text().split("\0")


def test_a_bar_in_a_terminal_shows_how_far_it_is(local: Local, flags: list[str]):
    with terminal("launch", "-e", local.url, *flags, "-u", "seen", TERM="xterm") as shown:
        shown.until("loading")
        assert "%" in shown.until("Model uid: seen")
        assert shown.ended() == 0
    assert jitney("terminate", "-e", local.url, "--model-uid", "seen").returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model-path", "/nowhere"], "there is no folder /nowhere"),
        (["-q", "4.5-bit"], "quantization"),
        (["-f", "gguf"], "model_format"),
        (["-t", "image"], "model_type"),
        (["-lm", "name", "/path"], "peft_model_config"),
        (["--gpu-idx", "0,1"], "gpu_idx"),
        (["--worker-ip", "10.0.0.1"], "worker_ip"),
        (["--enable-thinking"], "enable_thinking"),
        (["--enable-virtual-env"], "enable_virtual_env"),
        (["-vp", "numpy"], "virtual_env_packages"),
        (["-qc", "load_in_4bit", "True"], "quantization_config"),
        (["--no_such_thing", "1"], "no_such_thing"),
        (["--no-such-thing=1"], "no_such_thing"),
        (["--max_num_seqs"], "--max_num_seqs has no value"),
        (["stray"], "stray is no parameter"),
        (["-ev", "ALONE"], "ALONE has no value"),
    ],
)
def test_a_launch_that_cannot_be(local: Local, flags: list[str], words: list[str], said: str):
    fails("launch", "-e", local.url, *flags, "-u", "never", *words, said=said)


def test_a_model_that_cannot_be_loaded_is_told_and_not_left_behind(local: Local, tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "nothing-known"}')
    fails("launch", "-e", local.url, "-n", "smollm2-instruct", "-u", "broken", "-mp", str(tmp_path), said="error: NotSupportedYet")
    assert "broken" not in jitney("list", "-e", local.url).stdout


# `jitney` with less patience than a person's.
IMPATIENT = "from jitney_gateway import failure; failure.PATIENCE = 1.0; from jitney_gateway.cli.main import app; app()"


@pytest.mark.parametrize(
    ("variable", "said"),
    [(("HF_ENDPOINT", "http://127.0.0.1:9"), "error: HubUnreachable"), (("PYTHONHOME", "/nowhere"), "the runtime ended with exit code 1")],
)
def test_a_launch_that_fails_again_and_again_ends(local: Local, tmp_path: Path, variable: tuple[str, str], said: str):
    words = ["launch", "-e", local.url, "-n", "org/tiny", "-u", "failing", "-ev", *variable, "-ev", "HF_HOME", str(tmp_path)]
    command = [sys.executable, "-c", IMPATIENT, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=surroundings())
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "failing" not in jitney("list", "-e", local.url).stdout


def test_ctrl_c_cancels_a_launch(local: Local, flags: list[str]):
    command = [SCRIPT, "launch", "-e", local.url, *flags, "-u", "cancelled"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=surroundings()) as process:
        until(lambda: "cancelled" in jitney("list", "-e", local.url).stdout)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr is not None
        assert "the launch of cancelled was cancelled" in process.stderr.read()
    assert "cancelled" not in jitney("list", "-e", local.url).stdout


def test_a_launch_that_takes_too_long_is_left_and_told(local: Local, flags: list[str]):
    # Stopped before it can become ready.
    stopper = threading.Thread(target=_stop_the_next, args=(local, set(local.runtimes())))
    stopper.start()
    fails("launch", "-e", local.url, *flags, "-u", "slow", "--timeout", "3", said="slow is not ready after 3 s")
    stopper.join()
    assert "LOADING" in jitney("describe", "-e", local.url, "-u", "slow").stdout
    for pid in local.runtimes():
        subprocess.run(["kill", "-CONT", str(pid)], check=True)
    assert jitney("terminate", "-e", local.url, "-u", "slow").returncode == 0


def test_a_launch_of_what_is_not_wanted_any_more_ends(front_door: Server):
    """And the model is kept: the server here refuses to end it."""
    told = [("Suspended: it is.", "suspended"), ("ScaledToZero: nobody asks.", "asleep")]
    for message, word in told:
        front_door.answers["/v1/models/still"] = (200, json.dumps({"status": "LOADING", "message": message}).encode())
        fails("launch", "-e", front_door.url, "-n", "x", "-u", "still", said=f"error: still is {word} and is not waited for: {message}")


def _stop_the_next(local: Local, known: set[int]) -> None:
    new = until(lambda: set(local.runtimes()) - known)
    for pid in new:
        subprocess.run(["kill", "-STOP", str(pid)], check=True)


# List, describe, terminate


def test_a_list_for_people_and_for_programs(local: Local, uid: str):
    shown = jitney("list", "-e", local.url)
    head, *rows = shown.stdout.splitlines()
    assert re.split(r"  +", head.strip()) == ["UID", "Type", "Name", "Format", "Size (in billions)", "Quantization", "Status"]
    assert [re.split(r"  +", row.strip()) for row in rows] == [["talker", "LLM", "smollm2-instruct", "pytorch", "0_135", "none", "READY"]]
    assert shown.stderr == ""
    as_json = json.loads(jitney("list", "-e", local.url, "-o", "json").stdout)
    assert [(model["id"], model["status"]) for model in as_json] == [("talker", "READY")]
    assert yaml.safe_load(jitney("list", "-e", local.url, "-o", "yaml").stdout) == as_json


def test_a_list_tells_what_nobody_wants_now_from_what_starts(front_door: Server):
    models = [
        {"id": message, "status": "LOADING", "message": message} for message in ("Suspended: it is.", "ScaledToZero: x.", "loading 3 %")
    ]
    front_door.answers["/v1/models"] = (200, json.dumps({"data": models}).encode())
    shown = jitney("list", "-e", front_door.url, COLUMNS="200").stdout
    assert re.findall(r"[A-Z]{5,} \(.*\)", shown) == ["SUSPENDED (Suspended: it is.)", "ASLEEP (ScaledToZero: x.)", "LOADING (loading 3 %)"]


def test_a_description(local: Local, uid: str):
    shown = jitney("describe", "-e", local.url, "-u", uid).stdout
    assert re.search(r"^Status +READY *$", shown, re.MULTILINE)
    assert re.search(r"^Replica 0 +READY +http://127.0.0.1:", shown, re.MULTILINE)
    found = yaml.safe_load(jitney("describe", "-e", local.url, "--model-uid", uid, "-o", "yaml").stdout)
    assert (found["uid"], found["model_ability"][0], len(found["replicas"])) == ("talker", "chat", 1)


@pytest.mark.parametrize("command", ["describe", "terminate", "logs", "bench", "chat"])
def test_a_model_that_is_not_there(local: Local, command: str):
    fails(command, "-e", local.url, "--model-uid", "nobody", said="uid: nobody")


def test_a_form_that_is_not_there(local: Local):
    fails("list", "-e", local.url, "-o", "xml", said="xml", code=2)


# Logs


def test_the_runtimes_log(local: Local, uid: str):
    last = jitney("logs", "-e", local.url, "-u", uid, "-n", "2")
    assert len(last.stdout.splitlines()) == 2
    assert "ready: talker on http://" in jitney("logs", "-e", local.url, "-u", uid).stdout
    fails("logs", "-e", local.url, "-u", uid, "--replica", "7", said="no replica 7")


def test_a_log_is_followed_until_the_model_ends(local: Local, flags: list[str]):
    assert jitney("launch", "-e", local.url, *flags, "-u", "leaving").returncode == 0
    command = [SCRIPT, "logs", "-e", local.url, "-u", "leaving", "-f", "-n", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=surroundings()) as following:
        assert following.stdout is not None
        # From its last line until now on it follows.
        assert following.stdout.readline().strip()
        assert jitney("terminate", "-e", local.url, "-u", "leaving").returncode == 0
        assert following.wait(60) == 0
        # The model's way out was written after this began.
        assert following.stdout.read().strip()


# Bench


def test_a_bench_for_people_and_for_programs(local: Local, uid: str):
    asked = ["bench", "-e", local.url, "-u", uid, "--chats", "6", "-c", "3", "--max_tokens", "8"]
    shown = jitney(*asked)
    assert shown.returncode == 0, shown.stderr
    assert "talker: 6 chats answered, 3 at the same time" in shown.stdout
    for row in ("time to first token", "between tokens", "whole answer"):
        assert re.search(rf"^{row}( +[0-9.]+ (ms|s)){{4}} *$", shown.stdout, re.MULTILINE), shown.stdout
    found = json.loads(jitney(*asked, "-o", "json").stdout)
    assert (found["answered"], found["failed"], found["unfinished"], found["failures"]) == (6, 0, 0, {})
    assert 6 <= found["tokens"] <= 48
    assert found["tokens_per_second"] == pytest.approx(found["tokens"] / found["seconds"])
    first, whole = found["first_token_seconds"], found["answer_seconds"]
    assert 0 < first["p50"] <= first["p90"] <= first["p99"] <= first["max"] <= whole["max"] <= found["seconds"]


def test_a_bench_whose_chats_are_refused(local: Local, uid: str):
    done = jitney("bench", "-e", local.url, "-u", uid, "--chats", "4", "--max_tokens", "99999", "-o", "json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["failed"] == 4
    assert re.search(r"error: 4 failed: .*max_", done.stderr)


def test_a_bench_ends_when_it_was_told_to(local: Local, uid: str):
    begun = time.monotonic()
    asked = ["--chats", "50", "-c", "2", "--max_tokens", "2000", "--seconds", "3", "-o", "json"]
    done = jitney("bench", "-e", local.url, "-u", uid, *asked, "--prompt", "Count to a thousand.")
    assert done.returncode == 1
    assert time.monotonic() - begun < 60
    found = json.loads(done.stdout)
    assert found["seconds"] < 30
    assert found["unfinished"] + found["answered"] == 50
    assert f"{found['unfinished']} were not done" in done.stderr


@pytest.mark.parametrize(("share", "value"), [(0.5, 5), (0.9, 9), (0.99, 10), (1.0, 10), (0.05, 1)])
def test_a_percentile_is_a_value_that_was_measured(share: float, value: float):
    assert percentile([3, 1, 2, 10, 9, 8, 7, 6, 5, 4], share) == value
    assert percentile([7.0], share) == 7.0


# The shell


def test_the_shell_completes_commands_and_uids(local: Local, uid: str):
    def completed(line: str, word: int) -> list[str]:
        return jitney(_JITNEY_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(word)).stdout.split()

    assert completed("jitney des", 1) == ["describe"]
    assert completed(f"jitney chat -e {local.url} -u ta", 5) == ["talker"]
    assert completed("jitney chat -e http://127.0.0.1:9 -u ta", 5) == []
    assert "complete_bash" in jitney("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").stdout


def test_a_terminated_model_is_gone(local: Local):
    RESTfulClient(local.url).launch_model(**launch(), model_uid="gone")
    assert jitney("terminate", "-e", local.url, "--model-uid", "gone").returncode == 0
    fails("terminate", "-e", local.url, "--model-uid", "gone", said="uid: gone")
