"""`jitney registrations`, `register` and `unregister`, and a launch by the registered name, against a real `jitney local`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from support.console import fails, jitney
from support.local import Local
from support.models import save_tiny


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family whose weights are a tiny model's."""
    folder = tmp_path_factory.mktemp("family")
    spec = {
        "model_format": "pytorch",
        "model_size_in_billions": "0_01",
        "model_uri": f"file://{save_tiny(folder / 'model', vocab_size=49152)}",
    }
    (folder / "my.json").write_text(json.dumps({"model_name": "mine", "model_ability": ["chat"], "model_specs": [spec]}))
    return folder / "my.json"


def rows(shown: str) -> dict[str, list[str]]:
    """By their name, which is the second cell."""
    return {cells[1]: cells for line in shown.splitlines() if len(cells := re.split(r"  +", line.strip())) == 5}


def test_a_model_is_registered_listed_launched_and_forgotten(local: Local, file: Path):
    done = jitney("register", "-e", local.url, "--model-type", "LLM", "--file", str(file), "--persist")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "Registered mine: `jitney launch -n mine` launches it.\n"
    listed = rows(jitney("registrations", "-e", local.url).stdout)
    assert listed["Name"] == ["Type", "Name", "Language", "Ability", "Is-built-in"]
    assert listed["mine"] == ["LLM", "mine", "en", "chat", "False"]
    assert listed["qwen1.5-chat"] == ["LLM", "qwen1.5-chat", "en", "chat, generate", "True"]
    launched = jitney("launch", "-e", local.url, "-n", "mine")
    assert launched.stderr.splitlines()[-1] == "Model uid: mine"
    assert jitney("unregister", "-e", local.url, "--model-type", "LLM", "--model-name", "mine").returncode == 0
    assert "mine" not in rows(jitney("registrations", "-e", local.url).stdout)
    assert "mine" in jitney("list", "-e", local.url).stdout, "what was launched stays"
    assert jitney("terminate", "-e", local.url, "-u", "mine").returncode == 0


def test_one_is_shown_and_may_be_registered_again_as_it_is(local: Local, file: Path):
    """Without --persist it is forgotten with the server, as there."""
    piped = jitney("register", "-e", local.url, "-f", "-", input=file.read_text().replace('"mine"', '"piped"'))
    assert piped.returncode == 0, piped.stderr
    shown = jitney("registrations", "-e", local.url, "-n", "piped").stdout
    assert re.search(r"^Name +piped *$", shown, re.MULTILINE)
    assert re.search(r"^pytorch +0_01 +none +file:///\S+/model *$", shown, re.MULTILINE)
    found = json.loads(jitney("registrations", "-e", local.url, "-n", "piped", "-o", "json").stdout)
    assert yaml.safe_load(jitney("registrations", "-e", local.url, "-n", "piped", "-o", "yaml").stdout) == found
    assert jitney("unregister", "-e", local.url, "-n", "piped").returncode == 0
    again = jitney("register", "-e", local.url, "-f", "-", input=json.dumps(found))
    assert again.returncode == 0, again.stderr
    as_list = json.loads(jitney("registrations", "-e", local.url, "-o", "json").stdout)
    assert next(family for family in as_list if family["model_name"] == "piped") == found
    assert json.loads(jitney("registrations", "-e", local.url, "-t", "embedding", "-o", "json").stdout) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["register", "-f", "/nowhere.json"], "--file cannot be read"),
        (["register", "-f", "/dev/null"], "model: is no JSON"),
        (["register", "-f", "MINE", "-w", "10.0.0.1"], "worker_ip: there are no workers"),
        (["register", "-f", "MINE", "-t", "image"], "model_type: only chat models are served"),
        (["registrations", "-n", "nobody"], "Model nobody not found"),
        (["registrations", "-n", "no/bo dy"], "Not Found"),
        (["unregister", "-n", "nobody"], "Model nobody not found"),
        (["unregister", "-n", "qwen1.5-chat"], "is built in"),
    ],
)
def test_what_cannot_be(local: Local, file: Path, words: list[str], said: str):
    fails(words[0], "-e", local.url, *(str(file) if word == "MINE" else word for word in words[1:]), said=said)


def test_the_shell_completes_names(local: Local):
    line = f"jitney registrations -e {local.url} -n qwen1"
    assert jitney(_JITNEY_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD="5").stdout.split() == ["qwen1.5-chat"]
