"""The launch API from the outside; every failure is one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

TIMEOUT = httpx.Timeout(30, read=None)


class Failed(Exception):
    """What went wrong, for a person."""


class Client:
    """Of the front door at `endpoint`, such as http://127.0.0.1:9997."""

    def __init__(self, endpoint: str, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._endpoint = endpoint.rstrip("/")
        self._http = httpx.Client(base_url=self._endpoint, headers=headers, timeout=TIMEOUT)

    def launch(self, body: dict[str, Any]) -> str:
        """Begins it, and does not wait."""
        return str(self._ask("POST", "/v1/models?wait_ready=false", body)["model_uid"])

    def models(self) -> list[dict[str, Any]]:
        return list(self._ask("GET", "/v1/models")["data"])

    def describe(self, uid: str) -> dict[str, Any]:
        return dict(self._ask("GET", f"/v1/models/{uid}"))

    def progress(self, uid: str) -> dict[str, Any]:
        return dict(self._ask("GET", f"/v1/models/{uid}/progress"))

    def terminate(self, uid: str) -> None:
        self._ask("DELETE", f"/v1/models/{uid}")

    def chat(self, uid: str, messages: list[dict[str, str]], **options: Any) -> Iterator[str]:
        """The answer, piece by piece."""
        body = {"model": uid, "messages": messages, "stream": True, **options}
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code != 200:
                    answer.read()
                    raise Failed(_detail(answer))
                yield from _pieces(answer)
        except httpx.HTTPError as error:
            raise Failed(self._unreachable(error)) from error

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise Failed(self._unreachable(error)) from error
        if answer.status_code != 200:
            raise Failed(_detail(answer))
        return answer.json()

    def _unreachable(self, error: Exception) -> str:
        return f"{self._endpoint} does not answer ({error}): start it with `jitney local`, or name another with --endpoint"


def _pieces(answer: httpx.Response) -> Iterator[str]:
    for line in answer.iter_lines():
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            return
        if data.startswith("{"):
            event = json.loads(data)
            if "error" in event:
                raise Failed(str(event["error"].get("message", event["error"])))
            for choice in event.get("choices", []):
                yield choice["delta"].get("content") or ""
    raise Failed("the answer ended before its end")


def _detail(answer: httpx.Response) -> str:
    try:
        body = answer.json()
        return str(body.get("detail") or body["error"]["message"])
    except (ValueError, KeyError, AttributeError):
        return f"HTTP {answer.status_code}: {answer.text[:500]}"
