"""Flags, variables and their refusals."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jitney_runtime.settings import RuntimeSettings, parse_settings

# One value per flag that is not its default, as written and as read.
GIVEN: dict[str, tuple[str, object]] = {
    "model": ("org/some-model", "org/some-model"),
    "served_model_name": ("chat", "chat"),
    "revision": ("v2", "v2"),
    "max_num_seqs": ("3", 3),
    "max_model_len": ("4096", 4096),
    "quantization": ("int8", "int8"),
    "device": ("cuda", "cuda"),
    "dtype": ("bfloat16", "bfloat16"),
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("9000", 9000),
    "drain_seconds": ("7", 7),
    "max_waiting": ("9", 9),
    "token_budget": ("64", 64),
    "block_size": ("8", 8),
    "prefix_cache": ("false", False),
    "kv_cache_memory": ("2Gi", 2 * 2**30),
    "memory_share": ("0.5", 0.5),
    "kernel": ("plain", "plain"),
    "trust_remote_code": ("true", True),
    "chat_template": ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "{% for m in messages %}{{ m.content }}\n{% endfor %}"),
    "stop": ('["a, b", "\\n"]', ("a, b", "\n")),
    "stop_token_ids": ("2,0", (2, 0)),
    "termination_log": ("/tmp/why", "/tmp/why"),
    "log_level": ("debug", "debug"),
}
EXPECTED = RuntimeSettings(**{name: value for name, (_, value) in GIVEN.items()})  # type: ignore[arg-type]


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def test_the_table_above_has_every_setting():
    assert set(GIVEN) == {field.name for field in dataclasses.fields(RuntimeSettings)} - {"api_key"}
    defaults = parse_settings(["--model", "x/y"], {})
    assert not [name for name, (_, value) in GIVEN.items() if value == getattr(defaults, name)]


def test_defaults():
    settings = parse_settings(["--model", "org/some-model"], {})
    assert settings == RuntimeSettings("org/some-model", "some-model")
    assert (settings.max_num_seqs, settings.quantization, settings.device, settings.dtype) == (16, "none", "auto", "auto")
    assert (settings.port, settings.revision, settings.max_model_len) == (8000, None, None)


def test_every_setting_is_a_flag():
    assert parse_settings([word for name, (text, _) in GIVEN.items() for word in (flag(name), text)], {}) == EXPECTED


def test_every_flag_is_a_variable():
    assert parse_settings([], {f"JITNEY_{name.upper()}": text for name, (text, _) in GIVEN.items()}) == EXPECTED


@pytest.mark.parametrize("written", [["--max-num-seqs", "5"], ["--max-num-seqs=5"]], ids=["two words", "one word"])
@pytest.mark.parametrize("variable", ["3", "many"], ids=["another value", "a value that is none"])
def test_a_flag_wins_over_its_variable(written: list[str], variable: str):
    assert parse_settings(["--model", "a/b", *written], {"JITNEY_MAX_NUM_SEQS": variable}).max_num_seqs == 5


def test_an_empty_variable_is_none():
    assert parse_settings(["--model", "a/b"], {"JITNEY_REVISION": "", "JITNEY_PORT": "", "JITNEY_API_KEY": ""}) == RuntimeSettings(
        "a/b", "b"
    )


def test_the_key_is_a_variable_only():
    assert parse_settings(["--model", "a/b"], {"JITNEY_API_KEY": "secret"}).api_key == "secret"
    with pytest.raises(SystemExit):
        parse_settings(["--model", "a/b", "--api-key", "secret"], {})


@pytest.mark.parametrize("name", ["JITNEY_API_KEY", "JITNEY_CACHE", "JITNEY_CLUSTER", "JITNEY_ENDPOINT", "JITNEY_IMAGE_REGISTRY"])
def test_a_variable_of_the_project_that_is_no_flag_is_no_unknown_one(name: str, caplog: pytest.LogCaptureFixture):
    parse_settings(["--model", "a/b"], {name: "k"})
    assert not caplog.records


def test_an_unknown_variable_is_a_warning_and_a_known_one_is_not(caplog: pytest.LogCaptureFixture):
    parse_settings(["--model", "a/b"], {"JITNEY_MAX_SEQS": "3", "JITNEY_PORT": "1", "HOME": "/"})
    assert [record.getMessage() for record in caplog.records] == ["the variable JITNEY_MAX_SEQS is unknown and has no effect"]


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ([], {}, "--model"),
        (["--model", "a/b", "--max-num-seqs", "0"], {}, "whole number from 1 to 1024, not '0'"),
        (["--model", "a/b", "--max-num-seqs", "1025"], {}, "not '1025'"),
        (["--model", "a/b", "--max-num-seqs", "many"], {}, "not 'many'"),
        (["--model", "a/b", "--port", "70000"], {}, "0 to 65535"),
        (["--model", "a/b", "--quantization", "int3"], {}, "int3"),
        (["--model", "a/b", "--device", "tpu"], {}, "tpu"),
        (["--model", "a/b", "--dtype", "float64"], {}, "float64"),
        (["--model", "a/b", "--kv-cache-memory", "lots"], {}, "2Gi or 500M"),
        (["--model", "a/b", "--kv-cache-memory", "0"], {}, "2Gi or 500M, not '0'"),
        (["--model", "a/b", "--memory-share", "1.5"], {}, "at most 1, not '1.5'"),
        (["--model", "a/b", "--memory-share", "0.0"], {}, "more than 0"),
        (["--model", "a/b", "--stop", ""], {}, "--stop: must be a text of 1 to 256 characters"),
        (["--model", "a/b", "--stop", '["a", 5]'], {}, "--stop: must be a text"),
        (["--model", "a/b", "--stop", "x" * 257], {}, "--stop: must be a text"),
        (["--model", "a/b", "--stop-token-ids", "1,x"], {}, "--stop-token-ids: must be token ids such as 0,2, not '1,x'"),
        (["--model", "a/b", "--stop-token-ids", "-1"], {}, "--stop-token-ids"),
        (["--model", "a/b", "--chat-template", "/no/such/file"], {}, "the file '/no/such/file' cannot be read"),
        (["--model", "a/b", "--chat-template", "chatml"], {}, "the file 'chatml' cannot be read, and as a template it has no {{"),
        (["--model", "a/b", "--chat-template", "a\0b"], {}, "cannot be read"),
        (["--model", "a/b", "--chat-template", "/"], {}, "Is a directory"),
        (["--model", "a/b", "--chat-template", "{% if x %}\n{{ x }"], {}, "--chat-template: line 2: "),
        (["--model", "a/b", "--chat-template", "{{ x | frobnicate }}"], {}, "No filter named 'frobnicate'"),
        (["--model", "a/b"], {"JITNEY_CHAT_TEMPLATE": "{{ x"}, "--chat-template: line 1: "),
        (["--model", "a/b", "--batching", "yes"], {}, "--batching"),
        (["--model", "a/b", "--max-num", "3"], {}, "--max-num"),
        (["--model", "a/b"], {"JITNEY_PORT": "tcp://10.0.0.1:80"}, "--port"),
    ],
)
def test_a_bad_value_ends_with_2_and_names_the_flag(
    arguments: list[str], variables: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as ended:
        parse_settings(arguments, variables)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_stops_may_be_given_several_times_and_in_one():
    words = ["--stop", "a,b", "--stop", '["c", "a,b"]', "--stop", "[INST]", "--stop-token-ids", "1, 2", "--stop-token-ids=3,1"]
    found = parse_settings(["--model", "a/b", *words], {"JITNEY_STOP": "never", "JITNEY_STOP_TOKEN_IDS": "9"})
    assert (found.stop, found.stop_token_ids) == (("a,b", "c", "[INST]"), (1, 2, 3))


TEMPLATE = "{% for message in messages %}{% generation %}{{ message.content | tojson }}{% endgeneration %}{% break %}{% endfor %}"


def test_a_chat_template_is_a_file_or_a_text_or_parts_of_one(tmp_path: Path):
    file = tmp_path / "chat.jinja"
    file.write_text(TEMPLATE)
    for words in (["--chat-template", str(file)], ["--chat-template", TEMPLATE[:70], f"--chat-template={TEMPLATE[70:]}"]):
        assert parse_settings(["--model", "a/b", *words], {}).chat_template == TEMPLATE


@pytest.mark.parametrize(
    ("content", "said"), [(b"plain", "is no chat template"), (b"\xff{{", "is no text in UTF-8"), (b"{{ x", "line 1: ")]
)
def test_a_file_that_is_no_template_is_named(tmp_path: Path, content: bytes, said: str, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "chat.jinja"
    file.write_bytes(content)
    with pytest.raises(SystemExit):
        parse_settings(["--model", "a/b", "--chat-template", str(file)], {})
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"jitney-runtime: error: argument --chat-template: {file}")
    assert said in last


def test_the_process_ends_with_2_at_an_unknown_flag_after_warning_of_an_unknown_variable():
    command = [sys.executable, "-m", "jitney_runtime", "--model", "a/b", "--batching", "yes"]
    ended = subprocess.run(command, env=os.environ | {"JITNEY_BATCHING": "yes"}, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "WARNING jitney_runtime.settings: the variable JITNEY_BATCHING is unknown" in ended.stderr
    # Kubernetes shows the last line.
    assert ended.stderr.strip().splitlines()[-1] == "jitney-runtime: error: unrecognized arguments: --batching yes"
