"""Which front door the console script asks, and what it says when that one answers badly or not at all."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.answers import Server, answering
from support.console import SCRIPT, fails, jitney, surroundings
from support.local import Local

NO_CLUSTER = {"KUBECONFIG": "/nowhere"}
# A network of its own, in which nothing listens.
ALONE = ["unshare", "--map-root-user", "--net", "sh", "-c"]


def alone(script: str) -> subprocess.CompletedProcess[str]:
    command = [*ALONE, f"ip link set lo up\n{script}"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=surroundings(**NO_CLUSTER))


@pytest.fixture
def server() -> Iterator[Server]:
    with answering() as server:
        server.answers = {"/v1/models/x": (200, b"{}"), "/v1/models/x/replicas": (200, b"[]")}
        yield server


# Found


def test_the_one_that_is_named(local: Local):
    """By the flag before a variable, by ours before Xinference's."""
    nobody = "http://127.0.0.1:9"
    ways = [
        (["-e", local.url], {"JITNEY_ENDPOINT": nobody}),
        (["--endpoint", f"{local.url}/"], {}),
        ([], {"JITNEY_ENDPOINT": local.url, "XINFERENCE_ENDPOINT": nobody}),
        ([], {"XINFERENCE_ENDPOINT": local.url}),
    ]
    for words, environment in ways:
        done = jitney("list", *words, **environment)
        assert done.returncode == 0, done.stderr
        assert "No model is launched" in done.stderr


def test_no_proxy_leads_to_this_machine(local: Local):
    proxied = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:9")
    assert jitney("list", "-e", local.url, **proxied).returncode == 0


def test_the_one_on_this_machine_is_found_and_told(tmp_path: Path):
    done = alone(f"""
        {SCRIPT} local --state-dir {tmp_path} >{tmp_path}/log 2>&1 & server=$!
        until {SCRIPT} list -e http://127.0.0.1:9997 2>/dev/null; do sleep 0.3; done
        {SCRIPT} list -o json; code=$?
        kill $server; wait $server; exit $code""")
    assert (done.returncode, json.loads(done.stdout)) == (0, []), done.stderr
    assert "Asking http://127.0.0.1:9997, the front door on this machine." in done.stderr


def test_where_there_is_none_every_place_that_was_tried_is_told():
    done = alone(f"{SCRIPT} list")
    assert done.returncode == 1
    assert "http://127.0.0.1:9997 does not answer" in done.stderr
    assert "there is no usable kubeconfig" in done.stderr
    assert "`jitney local`" in done.stderr


@pytest.mark.parametrize("given", ["localhost:9997", "ftp://here", "http://", "http://127.0.0.1:port"])
def test_what_is_no_address(given: str):
    fails("list", "-e", given, said=f"not '{given}'")


# Answers that are none


def test_nobody_there():
    fails("list", "-e", "http://127.0.0.1:9", said="http://127.0.0.1:9 does not answer")


def test_something_else_answers(server: Server):
    server.answers["/v1/models"] = (200, b"<html>")
    fails("list", "-e", server.url, said="what it answers to /v1/models is no JSON")
    server.answers["/v1/models"] = (502, b"no such host")
    fails("list", "-e", server.url, said="HTTP 502: no such host")


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n', "the answer ended before its end"),
        (b'data: {"error": {"message": "the engine died"}}\n\n', "the engine died"),
        (b'data: {"error": "as Xinference says it"}\n\n', "as Xinference says it"),
    ],
    ids=["cut", "error", "error as a text"],
)
def test_a_stream_that_fails(server: Server, stream: bytes, said: str):
    server.answers["/v1/chat/completions"] = (200, stream)
    done = jitney("chat", "-e", server.url, "-u", "x", input="Hello\n")
    assert done.returncode == 1
    assert said in done.stderr
    measured = jitney("bench", "-e", server.url, "-u", "x", "--chats", "2", "-o", "json")
    assert measured.returncode == 1
    assert json.loads(measured.stdout)["failures"] == {said: 2}


def test_a_server_that_keeps_no_logs(server: Server):
    fails("logs", "-e", server.url, "-u", "x", said="Not Found")
