"""`jitney chat` in a terminal and from a pipe, against a real `jitney local` with the real model."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from xinference_client import RESTfulClient

from support.console import Terminal, fails, jitney, terminal
from support.local import NAME, Local, launch, running_local, until

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with running_local(tmp_path_factory.mktemp("local")) as local:
        RESTfulClient(local.url).launch_model(**launch(), model_uid="talker")
        yield local


@pytest.fixture
def flags(local: Local) -> list[str]:
    return ["chat", "-e", local.url, "--model-uid", "talker", "--temperature", "0", "--max_tokens", "24"]


@pytest.fixture
def talk(flags: list[str], tmp_path: Path) -> Iterator[Terminal]:
    with terminal(*flags, XDG_STATE_HOME=str(tmp_path)) as talk:
        talk.until("User: ")
        yield talk


def test_from_a_pipe(flags: list[str]):
    done = jitney(*flags, input=f"{QUESTION}\n/quit\nnever asked\n")
    assert (done.returncode, done.stdout) == (0, f"Assistant: {ANSWER}\n"), done.stderr


@pytest.mark.parametrize("stream", ["true", "False"])
def test_whole_or_as_it_comes(flags: list[str], stream: str):
    assert jitney(*flags, "--stream", stream, input=QUESTION).stdout == f"Assistant: {ANSWER}\n"


def test_an_answer_comes_word_by_word(talk: Terminal):
    talk.type(f"{QUESTION}\n")
    talk.until("Assistant: The")
    talk.until("Paris.\nUser: ")
    talk.type("/quit\n")
    assert talk.ended() == 0


def test_ctrl_d_ends_it(talk: Terminal):
    talk.type("\x04")
    assert talk.ended() == 0


def test_what_was_said_is_remembered_until_it_is_cleared(talk: Terminal):
    """With the first answer before it, the same question has another prompt, and so another answer."""
    repeated = "Repeat your last answer word for word."
    answers = []
    for words in (QUESTION, repeated, "/clear", repeated):
        talk.type(f"{words}\n")
        answers.append(talk.until("User: ").partition("Assistant: ")[2])
    assert "Paris" in answers[1]
    assert "Paris" not in answers[3]


def test_several_lines_are_one_question(talk: Terminal):
    talk.type("What is the capital \\\n")
    talk.until("... ")
    talk.type("of France?\n")
    assert "Paris" in talk.until("User: ")
    talk.type('"""What is the capital\n')
    talk.until("... ")
    talk.type('of Italy?"""\n')
    assert "Rome" in talk.until("User: ")


def test_a_system_prompt(flags: list[str]):
    told = "Your name is Zanzibar."
    assert "Zanzibar" in jitney(*flags, "--system", told, input="What is your name?").stdout
    # Set in the conversation it does the same.
    assert "Zanzibar" in jitney(*flags, input=f"/system {told}\nWhat is your name?\n").stdout
    assert "Zanzibar" not in jitney(*flags, input="What is your name?").stdout


def test_ctrl_c_stops_an_answer_and_not_the_conversation(local: Local, tmp_path: Path):
    flags = ["-e", local.url, "-u", "talker", "--max_tokens", "4000", "--temperature", "1"]
    with terminal("chat", *flags, XDG_STATE_HOME=str(tmp_path)) as talk:
        talk.until("User: ")
        talk.type("Write a very long story about a bus.\n")
        assert len(talk.until(" ", 60)) > 0
        talk.until("Assistant: ")
        talk.until(" ")
        talk.type("\x03")
        talk.until("(stopped)\nUser: ", 30)
        # At the prompt it empties the line.
        talk.type("half a question")
        talk.until("half a question", 30)
        talk.press("\x03", "User: ")
        talk.type("/quit\n")
        assert talk.ended() == 0


def test_commands_are_told_from_questions(talk: Terminal):
    talk.type("/nothing\n")
    talk.until("there is no command /nothing")
    talk.until("User: ")
    talk.type("/help\n")
    talk.until("/system TEXT")
    talk.until("User: ")
    talk.type("\n")
    assert "Assistant" not in talk.until("User: ")


def test_earlier_questions_come_back_with_the_arrow_keys_and_are_private(flags: list[str], tmp_path: Path):
    for keys in (f"{QUESTION}\n", "\x1b[A\x1b[A\n"):
        with terminal(*flags, XDG_STATE_HOME=str(tmp_path), TERM="xterm") as talk:
            talk.until("User: ")
            talk.type(keys)
            talk.until("Paris.")
            talk.until("User: ")
            talk.type("/quit\n")
            assert talk.ended() == 0
    assert (tmp_path / "jitney" / "chat_history").stat().st_mode & 0o777 == 0o600


def test_a_question_that_is_refused(flags: list[str], local: Local, tmp_path: Path):
    """From a pipe it ends with 1; in a terminal the next one may be asked."""
    refused = ["chat", "-e", local.url, "-u", "talker", "--max_tokens", "99999"]
    done = jitney(*refused, input=QUESTION)
    assert done.returncode == 1
    assert re.search(r"error: .*max_", done.stderr)
    with terminal(*refused, XDG_STATE_HOME=str(tmp_path)) as talk:
        talk.until("User: ")
        talk.type(f"{QUESTION}\n")
        talk.until("error: ")
        talk.until("User: ")
        talk.type("/quit\n")
        assert talk.ended() == 0


def test_a_model_that_failed_or_is_on_its_way(local: Local, tmp_path: Path):
    """From a pipe a question is not held back until the model is there."""
    begun = {"model_uid": "early", **launch()}
    assert httpx.post(f"{local.url}/v1/models?wait_ready=false", json=begun).status_code == 200
    early = jitney("chat", "-e", local.url, "-u", "early", input=QUESTION)
    assert early.returncode == 1
    assert "early is not ready yet" in early.stderr
    assert "error: early is starting" in early.stderr
    (tmp_path / "config.json").write_text('{"model_type": "nothing-known"}')
    broken = NAME | {"model_uid": "broken", "model_path": str(tmp_path)}
    assert httpx.post(f"{local.url}/v1/models?wait_ready=false", json=broken).status_code == 200
    until(lambda: httpx.get(f"{local.url}/v1/models/broken").json()["status"] == "ERROR", 200)
    fails("chat", "-e", local.url, "-u", "broken", said="broken cannot be served: NotSupportedYet")
    for uid in ("early", "broken"):
        assert jitney("terminate", "-e", local.url, "-u", uid).returncode == 0


def test_a_server_that_goes_away_during_an_answer(tmp_path: Path):
    with running_local(tmp_path / "local") as local:
        RESTfulClient(local.url).launch_model(**launch(), model_uid="talker")
        flags = ["-e", local.url, "-u", "talker", "--max_tokens", "4000", "--temperature", "1"]
        with terminal("chat", *flags, XDG_STATE_HOME=str(tmp_path)) as talk:
            talk.until("User: ")
            talk.type("Write a very long story about a bus.\n")
            talk.until("Assistant: ")
            talk.until(" ")
            local.process.send_signal(signal.SIGKILL)
            talk.until("error: the answer ended before its end", 30)
            talk.until("User: ")
            talk.type("Are you there?\n")
            talk.until("does not answer")


@pytest.mark.parametrize(
    ("words", "said", "code"), [(["--stream", "maybe"], "--stream must be true or false", 1), (["--max_tokens", "0"], "max", 2)]
)
def test_a_wrong_flag(flags: list[str], words: list[str], said: str, code: int):
    fails(*flags, *words, said=said, code=code)
