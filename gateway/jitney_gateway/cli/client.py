"""The launch API from the outside; every failure is one sentence."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import httpx


class Failed(Exception):
    """What went wrong, for a person."""


class Client:
    """Of the front door at `endpoint`, such as http://127.0.0.1:9997. `seconds` is how long it may take to begin an answer."""

    def __init__(self, endpoint: str, key: str | None = None, seconds: float = 30) -> None:
        self.endpoint = endpoint.rstrip("/")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        # No proxy leads to this machine.
        self.trust_env = not is_loopback(self.endpoint)
        self._http = httpx.Client(
            base_url=self.endpoint,
            headers=self.headers,
            timeout=seconds,
            trust_env=self.trust_env,
        )

    def launch(self, body: dict[str, Any]) -> str:
        """Begins it, and does not wait."""
        return str(self._ask("POST", "/v1/models?wait_ready=false", body)["model_uid"])

    def models(self) -> list[dict[str, Any]]:
        return list(self._ask("GET", "/v1/models")["data"])

    def describe(self, uid: str) -> dict[str, Any]:
        return dict(self._ask("GET", _path(uid)))

    def replicas(self, uid: str) -> list[dict[str, Any]]:
        return list(self._ask("GET", f"{_path(uid)}/replicas"))

    def progress(self, uid: str) -> dict[str, Any]:
        return dict(self._ask("GET", f"{_path(uid)}/progress"))

    def terminate(self, uid: str) -> None:
        """Returns when answers under way are finished."""
        self._ask("DELETE", _path(uid), seconds=None)

    def registrations(self, kind: str) -> list[dict[str, Any]]:
        """With all that is known of each."""
        return list(self._ask("GET", f"{_registered(kind)}?detailed=true"))

    def registration(self, kind: str, name: str) -> dict[str, Any]:
        return dict(self._ask("GET", _registered(kind, name)))

    def register(self, kind: str, text: str, persist: bool, worker_ip: str | None = None) -> None:
        """`text` is the family as JSON."""
        self._ask("POST", _registered(kind), {"model": text, "persist": persist, "worker_ip": worker_ip})

    def unregister(self, kind: str, name: str) -> None:
        self._ask("DELETE", _registered(kind, name))

    def version(self) -> str:
        return str(self._ask("GET", "/v1/cluster/version")["version"])

    def wants_keys(self) -> bool:
        return bool(self._ask("GET", "/v1/cluster/auth")["auth"])

    def log(self, uid: str, replica: str | None, lines: int, follow: bool) -> Iterator[str]:
        """Piece by piece; with `follow` it ends when the model does."""
        query = {"lines": lines, "follow": str(follow).lower()} | ({"replica": replica} if replica else {})
        with self._stream("GET", f"{_path(uid)}/logs", params=query) as answer:
            yield from answer.iter_text()

    def chat(self, uid: str, messages: list[dict[str, str]], **options: Any) -> Iterator[str]:
        """The answer, piece by piece."""
        body = {"model": uid, "messages": messages, "stream": True, **options}
        with self._stream("POST", "/v1/chat/completions", json=body) as answer:
            for event in events(answer.iter_lines()):
                for choice in event.get("choices", []):
                    yield choice["delta"].get("content") or ""

    def answer(self, uid: str, messages: list[dict[str, str]], **options: Any) -> str:
        """The answer, whole."""
        body = {"model": uid, "messages": messages, **options}
        return str(self._ask("POST", "/v1/chat/completions", body, seconds=None)["choices"][0]["message"]["content"] or "")

    def _stream(self, method: str, path: str, **request: Any) -> _Stream:
        return _Stream(self, self._http.stream(method, path, timeout=httpx.Timeout(30, read=None), **request))

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, seconds: float | None = 30) -> Any:
        timeout = self._http.timeout if seconds else httpx.Timeout(30, read=None)
        try:
            answer = self._http.request(method, path, json=body, timeout=timeout)
        except httpx.HTTPError as error:
            raise self.unreachable(error) from error
        if answer.status_code != 200:
            raise Failed(detail(answer))
        try:
            return answer.json()
        except ValueError as error:
            raise Failed(f"{self.endpoint} is no front door: what it answers to {path} is no JSON") from error

    def unreachable(self, error: Exception) -> Failed:
        why = str(error) or type(error).__name__
        return Failed(f"{self.endpoint} does not answer ({why}): start it with `jitney local`, or name another with --endpoint")


class _Stream:
    """An answer as it comes; Failed where the server refuses, cannot be reached or goes away."""

    def __init__(self, client: Client, stream: Any) -> None:
        self._client, self._stream = client, stream

    def __enter__(self) -> httpx.Response:
        try:
            answer: httpx.Response = self._stream.__enter__()
            if answer.status_code != 200:
                answer.read()
                self._stream.__exit__(None, None, None)
                raise Failed(detail(answer))
        except httpx.HTTPError as error:
            raise self._client.unreachable(error) from error
        return answer

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._stream.__exit__(kind, error, trace)
        if isinstance(error, httpx.HTTPError):
            raise Failed(f"the answer ended before its end: {error}") from error


def is_loopback(url: str) -> bool:
    """Whether it leads to this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _path(uid: str) -> str:
    return f"/v1/models/{quote(uid, safe='')}"


def _registered(*parts: str) -> str:
    return "/".join(["/v1/model_registrations", *(quote(part, safe="") for part in parts)])


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Of a stream of server-sent events, up to [DONE]."""
    for line in lines:
        event = event_of(line)
        if event is None:
            return
        if event:
            yield event
    raise Failed("the answer ended before its end")


def event_of(line: str) -> dict[str, Any] | None:
    """None at the end of the stream, empty where the line holds none; Failed where it tells of an error."""
    data = line.removeprefix("data:").strip()
    if data == "[DONE]":
        return None
    if not line.startswith("data:") or not data.startswith("{"):
        return {}
    event = dict(json.loads(data))
    if error := event.get("error"):
        raise Failed(str(error.get("message", error) if isinstance(error, dict) else error))
    return event


def detail(answer: httpx.Response) -> str:
    """The sentence in an answer that refuses."""
    try:
        body = answer.json()
        return str(body.get("detail") or body["error"]["message"])
    except (ValueError, KeyError, AttributeError, TypeError):
        return f"HTTP {answer.status_code}: {answer.text[:500]}"
