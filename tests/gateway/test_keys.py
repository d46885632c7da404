"""A real `jitney local` with keys, a runtime behind it, and the published clients before it; and one without keys, before web pages."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
import yaml
from xinference_client import RESTfulClient

from jitney_gateway.server.keys import make
from support.console import fails, jitney
from support.local import NAME, QUESTION, Local, running_local, until
from support.models import save_tiny

CHAT = {"model": "tiny", "messages": QUESTION, "max_tokens": 4, "temperature": 0}


@dataclass
class Keyed:
    """`secrets` by the ids of their keys."""

    local: Local
    file: Path
    secrets: dict[str, str]
    entries: dict[str, dict[str, Any]]

    def headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secrets[key]}"}

    def ask(self, key: str, method: str, path: str, **more: Any) -> httpx.Response:
        return httpx.request(method, f"{self.local.url}{path}", headers=self.headers(key), timeout=120, **more)

    def chat(self, key: str, **more: Any) -> httpx.Response:
        return self.ask(key, "POST", "/v1/chat/completions", json=CHAT | more)

    def metric(self, name: str, **labels: str) -> float:
        found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", httpx.get(f"{self.local.url}/metrics").text, re.MULTILINE)
        return sum(float(value) for told, value in found if all(f'{label}="{text}"' in told for label, text in labels.items()))

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in re.findall(r"INFO jitney[.]audit: (.*)$", self.local.log, re.MULTILINE)]

    def reached(self) -> float:
        """Requests that the runtime has ended."""
        address = RESTfulClient(self.local.url, self.secrets["admin"]).describe_model("tiny")["address"]
        found = re.findall(r"^jitney_requests_total\{.*\} (\S+)$", httpx.get(f"{address}/metrics").text, re.MULTILINE)
        return sum(map(float, found))

    def add(self, name: str, **limits: Any) -> None:
        """A key more in the file, in force when this returns."""
        secret, key = make(name)
        self.secrets[name], self.entries[name] = secret, key.written() | limits
        self.write()
        until(lambda: httpx.get(f"{self.local.url}/v1/cluster/version", headers=self.headers(name)).status_code == 200)

    def write(self) -> None:
        self.file.write_text(yaml.safe_dump({"keys": list(self.entries.values())}))


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """Open to the network, with a model that `admin` has launched."""
    folder = tmp_path_factory.mktemp("keyed")
    keys = {name: make(name, models) for name, models in (("admin", None), ("guest", ("tiny",)), ("stranger", ("other-*",)))}
    entries = {name: key.written() for name, (_, key) in keys.items()}
    file = folder / "keys.yaml"
    file.write_text(yaml.safe_dump({"keys": list(entries.values())}))
    with running_local(folder / "state", "--host", "0.0.0.0", "--keys-file", str(file), "--log-level", "warning") as local:
        keyed = Keyed(local, file, {name: secret for name, (secret, _) in keys.items()}, entries)
        tiny = save_tiny(folder / "tiny", vocab_size=49152)
        client = RESTfulClient(local.url, keyed.secrets["admin"])
        assert client.launch_model(**NAME, model_uid="tiny", model_path=str(tiny)) == "tiny"
        yield keyed


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """Without keys, impatient, and taking no more than a mebibyte."""
    with running_local(tmp_path_factory.mktemp("plain"), "--client-seconds", "5", "--max-body-mebibytes", "1") as local:
        yield local


# Who may come in


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("POST", "/v1/models"),
        ("GET", "/v1/models/tiny"),
        ("DELETE", "/v1/models/tiny"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/cluster/info"),
        ("GET", "/v1/overview"),
        ("GET", "/status"),
        ("GET", "/openapi.json"),
        ("GET", "/nowhere"),
        ("GET", "/page/../v1/models"),
        ("OPTIONS", "/v1/models"),
    ],
)
def test_without_a_key_nobody_comes_in(keyed: Keyed, method: str, path: str):
    for given in (
        {},
        {"Authorization": "Bearer jk-wrong"},
        {"Authorization": f"Basic {keyed.secrets['admin']}"},
        {"Authorization": "\xff"},
    ):
        with socket.create_connection((urlsplit(keyed.local.url).hostname, urlsplit(keyed.local.url).port)) as connection:
            head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n".encode("latin-1"))
            told = connection.makefile("rb").read().decode()
        assert told.startswith("HTTP/1.1 401"), told
        assert "www-authenticate: bearer" in told.lower()
        assert "send it as Authorization: Bearer KEY" in told


def test_what_is_told_without_a_key(keyed: Keyed, plain: Local):
    for path in ("/livez", "/readyz", "/metrics", "/", "/page/app.js"):
        assert httpx.get(f"{keyed.local.url}{path}").status_code == 200
    assert httpx.get(f"{keyed.local.url}/v1/cluster/auth").json() == {"auth": True}
    assert httpx.get(f"{plain.url}/v1/cluster/auth").json() == {"auth": False}
    # What a client asks that was told that keys are needed, and has none yet.
    refused = httpx.post(f"{keyed.local.url}/token", json={"username": "a", "password": "b"})
    assert (refused.status_code, "error" in refused.json()) == (501, True)


def test_the_published_clients_send_their_key(keyed: Keyed):
    client = RESTfulClient(keyed.local.url, keyed.secrets["guest"])
    assert list(client.list_models()) == ["tiny"]
    answer = client.get_model("tiny").chat(QUESTION, generate_config={"max_tokens": 3, "stream": True})
    assert [event for event in answer if event["choices"]]
    with pytest.raises(RuntimeError, match="the API key is missing"):
        RESTfulClient(keyed.local.url).list_models()
    with openai.OpenAI(base_url=f"{keyed.local.url}/v1", api_key=keyed.secrets["guest"]) as theirs:
        assert [model.id for model in theirs.models.list()] == ["tiny"]
        assert theirs.chat.completions.create(**CHAT).usage.completion_tokens == 4
        *_, last = theirs.chat.completions.create(**CHAT, stream=True)
        assert (last.choices[0].finish_reason, last.usage) == ("length", None)
        with pytest.raises(openai.PermissionDeniedError, match="guest is not for gpt"):
            theirs.chat.completions.create(**CHAT | {"model": "gpt"})
    with openai.OpenAI(base_url=f"{keyed.local.url}/v1", api_key="sk-other") as theirs, pytest.raises(openai.AuthenticationError):
        theirs.models.list()


def test_the_command_line_sends_its_key(keyed: Keyed):
    flags = ["list", "-e", keyed.local.url, "-o", "json"]
    for more, environment in (
        (["-ak", keyed.secrets["guest"]], {"JITNEY_API_KEY": "wrong"}),
        ([], {"XINFERENCE_API_KEY": keyed.secrets["guest"]}),
    ):
        done = jitney(*flags, *more, **environment)
        assert done.returncode == 0, done.stderr
        assert [model["id"] for model in json.loads(done.stdout)] == ["tiny"]
    fails(*flags, said="the API key is missing")


# What a key is for


def test_a_key_sees_and_touches_its_own_models_only(keyed: Keyed):
    for path in ("/v1/models", "/v1/overview"):
        found = keyed.ask("stranger", "GET", path).json()
        assert (found.get("data"), found.get("models")) in (([], None), (None, []))
    assert keyed.ask("stranger", "GET", "/v1/models/instances").json() == []
    assert "tiny" not in keyed.ask("stranger", "GET", "/v1/workers").text
    for method, path, body in (
        ("POST", "/v1/chat/completions", CHAT),
        ("POST", "/v1/completions", CHAT),
        ("GET", "/v1/models/tiny", None),
        ("GET", "/v1/models/tiny/progress", None),
        ("GET", "/v1/models/tiny/logs", None),
        ("GET", "/v1/models/tiny/replicas", None),
        ("POST", "/v1/models/tiny/replicas", {}),
        ("DELETE", "/v1/models/tiny/replicas/0", None),
        ("POST", "/v1/models/tiny/requests/r/abort", {}),
        ("POST", "/v1/models/tiny/cancel", None),
        ("DELETE", "/v1/models/tiny", None),
        ("POST", "/v1/models", NAME | {"model_uid": "more"}),
        ("POST", "/v1/models", NAME),
        ("POST", "/v1/models/fit", NAME),
        ("DELETE", "/v1/model_registrations/LLM/mine", None),
    ):
        answer = keyed.ask("stranger", method, path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "model_not_allowed"), (method, path, answer.text)
    unknown = keyed.chat("stranger", model="other-one")
    assert (unknown.status_code, "tiny" in unknown.text) == (404, False)
    assert keyed.chat("guest").status_code == 200


def test_a_key_for_some_models_launches_no_code_of_its_own(keyed: Keyed):
    """But a key whose entry says that it may. It is there already, which is seen last."""
    tiny = NAME | {"model_uid": "tiny"}
    odd = {"envs": {"LD_PRELOAD": "x"}, "trust_remote_code": True, "model_path": "/tmp"}
    keyed.add("runner", models=["tiny"], launch="full")
    for field, value in odd.items():
        for path in ("/v1/models", "/v1/models/fit"):
            refused = keyed.ask("guest", "POST", path, json=tiny | {field: value})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "launch_not_allowed"), refused.text
            assert refused.json()["detail"].startswith(f"{field}: the key guest is for some models only")
            assert "launch: full" in refused.json()["detail"]
            taken = keyed.ask("runner", "POST", path, json=tiny | {field: value})
            assert taken.json()["error"]["code"] == "model_exists", taken.text
    plain = keyed.ask("guest", "POST", "/v1/models", json=tiny | {"model_path": "hf://org/repo"})
    assert plain.json()["error"]["code"] == "model_exists", plain.text
    spec = {"model_format": "pytorch", "model_size_in_billions": 1, "model_uri": "file:///tmp"}
    family = {"model_name": "tiny", "model_lang": ["en"], "model_ability": ["chat"], "model_specs": [spec]}
    refused = keyed.ask("guest", "POST", "/v1/model_registrations/LLM", json={"model": json.dumps(family)})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "launch_not_allowed"), refused.text
    assert refused.json()["detail"].startswith("model_specs[0].model_uri: ")


def test_a_refused_request_does_not_reach_the_runtime_and_makes_no_label(keyed: Keyed):
    before = keyed.reached()
    assert httpx.post(f"{keyed.local.url}/v1/chat/completions", json=CHAT).status_code == 401
    assert keyed.chat("stranger").status_code == 403
    assert keyed.chat("admin", model="made-up-name").status_code == 404
    assert keyed.reached() == before
    assert "made-up-name" not in httpx.get(f"{keyed.local.url}/metrics").text


# How often


def test_requests_of_a_minute(keyed: Keyed):
    keyed.add("often", requestsPerMinute=2)
    assert [keyed.chat("often").status_code for _ in range(2)] == [200, 200]
    before = keyed.reached()
    refused = keyed.chat("often")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert "often has used up its 2 requests per minute" in refused.json()["detail"]
    assert keyed.reached() == before
    assert keyed.ask("often", "GET", "/v1/models").status_code == 200, "only answers are limited"
    assert keyed.chat("guest").status_code == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_tokens_of_a_minute(keyed: Keyed, stream: bool):
    name = f"much-{stream}"
    keyed.add(name, tokensPerMinute=10)
    answer = keyed.chat(name, stream=stream)
    assert answer.status_code == 200
    assert "usage" not in answer.text or not stream
    until(lambda: keyed.metric("jitney_gateway_tokens_total", key=name, kind="completion"))
    assert keyed.metric("jitney_gateway_tokens_total", key=name, kind="completion") == 4
    asked = keyed.metric("jitney_gateway_tokens_total", key=name, kind="prompt")
    assert asked > 10
    refused = keyed.chat(name)
    assert refused.status_code == 429
    # Four tokens of the answer and the prompt's, less the ten that there were, at ten in a minute.
    assert 0 < int(refused.headers["retry-after"]) <= 6 * (asked + 4 - 10 + 1) + 1


def test_an_answer_that_is_left_costs_what_was_seen(keyed: Keyed):
    keyed.add("leaver", tokensPerMinute=100_000)
    body = CHAT | {"stream": True, "max_tokens": 200}
    with httpx.stream("POST", f"{keyed.local.url}/v1/chat/completions", json=body, headers=keyed.headers("leaver"), timeout=60) as answer:
        lines = answer.iter_lines()
        for _ in range(20):
            next(lines)
    until(lambda: keyed.metric("jitney_gateway_tokens_total", key="leaver", kind="completion") >= 5)


# What is told


def test_metrics(keyed: Keyed):
    keyed.add("seen")
    assert keyed.chat("seen").status_code == 200
    assert keyed.chat("seen", stream=True).status_code == 200
    assert keyed.chat("seen", temperature="hot").status_code == 400
    counted = [keyed.metric("jitney_gateway_requests_total", model="tiny", key="seen", status=status) for status in ("200", "400")]
    assert counted == [2, 1]
    assert keyed.metric("jitney_gateway_time_to_first_token_seconds_count", model="tiny") >= 1
    assert keyed.metric("jitney_gateway_keys_current") == 1
    for name in ("jitney_gateway_requests_in_flight", "jitney_gateway_requests_held"):
        assert keyed.metric(name) == 0


def test_who_changed_what_is_in_the_log(keyed: Keyed):
    """Also where the log is kept short."""
    assert keyed.ask("stranger", "DELETE", "/v1/models/tiny").status_code == 403
    spec = {"model_format": "pytorch", "model_size_in_billions": 1, "quantization": "none", "model_id": "org/repo"}
    family = {"model_name": "mine", "model_family": "mine", "context_length": 64, "model_lang": ["en"], "model_ability": ["chat"]}
    RESTfulClient(keyed.local.url, keyed.secrets["admin"]).register_model("LLM", json.dumps(family | {"model_specs": [spec]}), persist=True)
    RESTfulClient(keyed.local.url, keyed.secrets["admin"]).unregister_model("LLM", "mine")
    told = {(line["event"], line["model"], line["key"], line["outcome"]): line for line in keyed.audit()}
    for expected in (
        ("launch", "tiny", "admin", "done"),
        ("terminate", "tiny", "stranger", "refused"),
        ("register", "mine", "admin", "done"),
        ("unregister", "mine", "admin", "done"),
    ):
        assert expected in told, sorted(told)
        assert told[expected]["address"] == "127.0.0.1"
    assert told["terminate", "tiny", "stranger", "refused"]["status"] == 403


def test_keys_are_exchanged_without_a_restart(keyed: Keyed):
    """And a file that cannot be taken exchanges nothing."""
    keyed.add("old")
    old = keyed.headers("old")
    url = f"{keyed.local.url}/v1/cluster/version"
    for text, said in (("keys: [", "it is no YAML"), ("keys: [{id: x, hash: nothing}]", "keys[0].hash: must be the SHA-256")):
        keyed.file.write_text(text)
        until(lambda said=said: said in keyed.local.log)
        assert httpx.get(url, headers=old).status_code == 200
    assert keyed.metric("jitney_gateway_keys_current") == 0
    assert keyed.metric("jitney_gateway_keys_failures") >= 2
    keyed.file.unlink()
    until(lambda: "cannot be read" in keyed.local.log)
    assert httpx.get(url, headers=old).status_code == 200
    del keyed.entries["old"]
    keyed.write()
    until(lambda: httpx.get(url, headers=old).status_code == 401)
    until(lambda: keyed.metric("jitney_gateway_keys_current") == 1)
    assert keyed.ask("admin", "GET", "/v1/models").status_code == 200


# Web pages and clients that take their time


def test_a_web_page_of_another_origin_changes_nothing(plain: Local):
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
        refused = httpx.post(f"{plain.url}/v1/models", json=NAME, headers={"Origin": origin})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "origin_not_allowed")
        asked = httpx.get(f"{plain.url}/v1/models", headers={"Origin": origin})
        assert not [name for name in asked.headers if name.startswith("access-control")]
    own = httpx.post(f"{plain.url}/v1/models", json={}, headers={"Origin": plain.url})
    assert own.status_code == 400


def test_a_name_that_was_made_to_lead_here(plain: Local, keyed: Keyed):
    refused = httpx.get(f"{plain.url}/v1/models", headers={"Host": "evil.example"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "host_not_allowed")
    assert httpx.get(f"{plain.url}/v1/models", headers={"Host": "localhost:1"}).status_code == 200
    assert httpx.get(f"{keyed.local.url}/livez", headers={"Host": "models.example"}).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long(plain: Local, chunked: bool):
    data = b"x" * (1024 * 1024 + 1)
    answer = httpx.post(f"{plain.url}/v1/models", content=iter([data]) if chunked else data)
    assert answer.status_code == 413
    assert "longer than 1 MiB (JITNEY_MAX_BODY_MEBIBYTES)" in answer.json()["detail"]
    assert httpx.post(f"{plain.url}/v1/models", content=data[:-1]).status_code == 400


SLOW = {
    b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nX-": b"HTTP/1.1 408",
    b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n{": b"JITNEY_CLIENT_SECONDS",
    # It is answered, and goes on sending a body that nobody wants.
    b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n": b"HTTP/1.1 404",
    # It never says anything.
    b"": b"",
}


def test_clients_that_take_their_time_are_left(plain: Local):
    """All at once; those that speak do so byte by byte, and are never silent."""
    parts = urlsplit(plain.url)
    with ThreadPoolExecutor(len(SLOW)) as threads:
        told = list(threads.map(lambda sent: _trickle((parts.hostname, parts.port), sent), SLOW))
    for seen, said in zip(told, SLOW.values(), strict=True):
        assert said in seen


def _trickle(address: Any, sent: bytes) -> bytes:
    """What is told until the connection is closed."""
    told, end = b"", time.monotonic() + 60
    with socket.create_connection(address) as connection:
        connection.sendall(sent)
        connection.settimeout(0.5)
        while time.monotonic() < end:
            with contextlib.suppress(TimeoutError):
                try:
                    connection.sendall(b"x" if sent else b"")
                    if not (piece := connection.recv(4096)):
                        return told
                    told += piece
                except ConnectionError:
                    return told
    raise AssertionError(f"still open after: {told!r}")


def test_a_head_that_is_too_long(plain: Local):
    assert httpx.get(f"{plain.url}/livez", headers={"X-Long": "x" * 17_000}).status_code == 431
    assert httpx.get(f"{plain.url}/livez", headers={"X-Long": "x" * 15_000}).status_code == 200


def test_what_every_answer_forbids_and_what_is_not_there(plain: Local):
    for path, status in (("/", 200), ("/livez", 200), ("/openapi.json", 200), ("/docs", 404), ("/redoc", 404)):
        answer = httpx.get(f"{plain.url}{path}")
        assert (answer.status_code, answer.headers.get_list("x-content-type-options")) == (status, ["nosniff"]), path


def test_a_replica_of_too_many_digits(plain: Local):
    answer = httpx.get(f"{plain.url}/v1/models/x/logs", params={"replica": "5" * 5000})
    assert (answer.status_code, answer.json()["detail"]) == (422, "replica: String should have at most 253 characters")


# Starting


def test_other_machines_call_with_keys_or_knowingly_without(tmp_path: Path):
    fails("local", "--host", "0.0.0.0", said="without keys only this machine may call")
    (tmp_path / "keys.yaml").write_text("keys: [{id: x}]")
    fails("local", "--keys-file", str(tmp_path / "keys.yaml"), said="keys[0].hash: must be the SHA-256")
    with running_local(tmp_path / "state", "--host", "0.0.0.0", "--insecure", XINFERENCE_TRANSFORMERS_ENABLE_BATCHING="0") as local:
        assert httpx.get(f"{local.url}/v1/models", headers={"Host": "any.example"}).status_code == 200
        assert "XINFERENCE_TRANSFORMERS_ENABLE_BATCHING=0 has no effect: requests always share one batch" in local.log


def test_a_key_is_shown_once(tmp_path: Path):
    done = jitney("keys", "make", "team-a", "--model", "smol*", "--model", "b", "--requests-per-minute", "6", "--tokens-per-minute", "7")
    (entry,) = yaml.safe_load(done.stdout)
    (secret,) = re.findall(r"jk-\S+", done.stderr)
    assert (entry["id"], entry["models"], entry["requestsPerMinute"], entry["tokensPerMinute"]) == ("team-a", ["smol*", "b"], 6, 7)
    assert secret not in done.stdout
    assert "launch" not in entry
    told = json.loads(jitney("keys", "make", "x", "--model", "m", "--full-launch", "-o", "json").stdout)
    assert (set(told), told["entry"]["launch"]) == ({"key", "entry"}, "full")
