"""Flags, variables and their refusals."""

from __future__ import annotations

import pytest

from jitney_runtime.settings import parse_settings


def test_defaults():
    settings = parse_settings(["--model", "org/some-model"], {})
    assert (settings.served_model_name, settings.max_num_seqs, settings.port, settings.quantization) == ("some-model", 16, 8000, "none")


def test_variables_are_flags_and_flags_win():
    variables = {"JITNEY_MODEL": "org/a", "JITNEY_MAX_NUM_SEQS": "3", "JITNEY_PORT": "9", "JITNEY_API_KEY": "secret", "HOME": "/"}
    settings = parse_settings(["--max-num-seqs", "5"], variables)
    assert (settings.model, settings.max_num_seqs, settings.port, settings.api_key) == ("org/a", 5, 9, "secret")


def test_memory_has_units():
    assert parse_settings(["--model", "a/b", "--kv-cache-memory", "2Gi"], {}).kv_cache_memory == 2 * 2**30


def test_an_unknown_variable_is_a_warning(caplog: pytest.LogCaptureFixture):
    parse_settings(["--model", "a/b"], {"JITNEY_MAX_SEQS": "3"})
    assert "JITNEY_MAX_SEQS is unknown" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--model"),
        (["--model", "a/b", "--max-num-seqs", "0"], "whole number from 1 to 1024, not '0'"),
        (["--model", "a/b", "--max-num-seqs", "1025"], "not '1025'"),
        (["--model", "a/b", "--max-num-seqs", "many"], "not 'many'"),
        (["--model", "a/b", "--port", "70000"], "0 to 65535"),
        (["--model", "a/b", "--quantization", "int3"], "int3"),
        (["--model", "a/b", "--device", "tpu"], "tpu"),
        (["--model", "a/b", "--kv-cache-memory", "lots"], "2Gi or 500M"),
        (["--model", "a/b", "--batching", "yes"], "--batching"),
        (["--model", "a/b", "--max-num", "3"], "--max-num"),
    ],
)
def test_a_bad_flag_ends_with_2_and_names_it(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        parse_settings(arguments, {})
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
