"""Everything that Xinference's published clients can ask is served, or refused in words of its own: no bare "Not Found"."""

from __future__ import annotations

import contextlib
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from xinference_client.client.restful import async_restful_client, restful_client

from jitney_gateway.catalogue import Catalogue
from jitney_gateway.local.backend import LocalBackend
from jitney_gateway.server import app
from jitney_gateway.server.absent import ABSENT
from support.local import until


@dataclass
class Door:
    """The front door in this process, with no model. `told` is each answer: what was asked, the status, and the body."""

    app: ASGIApp
    url: str = ""
    told: list[tuple[str, int, bytes]] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, body = 0, b""

        async def sending(message: Message) -> None:
            nonlocal status, body
            status, body = message.get("status", status), body + message.get("body", b"")
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self.told.append((f"{scope['method']} {scope['path']}", status, body))
            await send(message)

        await self.app(scope, receive, sending)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    catalogue = Catalogue.read()
    door = Door(app.make(LocalBackend(tmp_path_factory.mktemp("state"), catalogue), catalogue))
    server = uvicorn.Server(uvicorn.Config(door, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        door.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield door
    finally:
        server.should_exit = True
        thread.join()


@pytest.mark.parametrize(("path", "method"), [(path, method) for path, (methods, _) in ABSENT.items() for method in methods])
def test_what_is_absent_says_what_to_do_instead(door: Door, path: str, method: str):
    for uid in ("m", "team/m", "team%2Fm"):
        asked = path.replace("{uid:uid}", uid)
        answer = httpx.request(method, door.url + asked.replace("{", "").replace("}", ""))
        told = answer.json()
        assert (answer.status_code, told["detail"], told["error"]["code"]) == (501, ABSENT[path][1], "not_supported")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("POST", "/" + "x" * 5000, 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
    ],
)
def test_what_no_route_is_for(door: Door, method: str, path: str, status: int, code: str):
    answer = httpx.request(method, door.url + path)
    told = answer.json()
    assert (answer.status_code, told["error"]["code"], told["error"]["message"]) == (status, code, told["detail"])
    assert f"{method} {path[:100]}" in told["detail"]
    assert len(answer.content) < 2000
    assert answer.headers.get("allow") == ("POST" if status == 405 else None)


# Of a parameter that must be given, by its name; any other is a text.
GIVEN: dict[str, Any] = dict.fromkeys(("image", "images", "mask_image", "audio", "first_frame", "last_frame"), b"x")
GIVEN |= {"messages": [{"role": "user", "content": "x"}], "documents": ["x"], "model": '{"model_name": 3}', "entry": {}, "replica_id": 0}


def given(call: Callable[..., Any]) -> dict[str, Any]:
    wanted = [part for part in inspect.signature(call).parameters.values() if part.default is part.empty]
    return {part.name: GIVEN.get(part.name, "x") for part in wanted if part.kind in (part.POSITIONAL_OR_KEYWORD, part.KEYWORD_ONLY)}


def calls(of: Any) -> list[tuple[str, Callable[..., Any]]]:
    return [(name, call) for name, call in inspect.getmembers(of, inspect.ismethod) if not name.startswith("_") and name != "close"]


def handles(module: Any) -> list[type]:
    return [found for name, found in inspect.getmembers(module, inspect.isclass) if name.endswith("ModelHandle")]


def assert_answered(door: Door, name: str) -> None:
    assert door.told, f"{name} asked nothing"
    for asked, status, body in door.told:
        assert status != 405, (name, asked)
        if status != 200:
            assert json.loads(body)["error"]["code"] != "unknown_url", (name, asked, body)
    door.told.clear()


def test_every_call_of_the_published_client(door: Door):
    client = restful_client.Client(door.url)
    # Where no key is needed it would log in nowhere.
    client._cluster_authed = True
    door.told.clear()
    for caller in (client, *(handle("x", door.url, {}) for handle in handles(restful_client))):
        for name, call in calls(caller):
            with contextlib.suppress(RuntimeError):
                call(**given(call))
            assert_answered(door, f"{type(caller).__name__}.{name}")


async def test_every_call_of_the_published_async_client(door: Door):
    client = async_restful_client.AsyncClient(door.url)
    client._cluster_authed = True
    door.told.clear()
    for caller in (client, *(handle("x", door.url, {}) for handle in handles(async_restful_client))):
        for name, call in calls(caller):
            with contextlib.suppress(RuntimeError):
                await call(**given(call))
            assert_answered(door, f"{type(caller).__name__}.{name}")
        await caller.close()
