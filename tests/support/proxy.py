"""Stands between the operator and the API server: keeps a list of what was asked for, and fails as a network or a server fails.

Plain HTTP on the operator's side, the administrator's certificate on the other.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from cluster.control_plane import ControlPlane

WRITES = {"POST", "PUT", "PATCH", "DELETE"}


@dataclass(frozen=True)
class Seen:
    """One request of the operator. `plural` is the resource's name in the path."""

    method: str
    path: str
    query: dict[str, str]
    at: float = field(default_factory=time.monotonic)

    @property
    def plural(self) -> str:
        parts = self.path.strip("/").split("/")
        start = 2 if parts[0] == "api" else 3
        rest = parts[start:]
        return rest[2] if rest[:1] == ["namespaces"] and len(rest) > 2 else next(iter(rest), "")

    @property
    def watches(self) -> bool:
        return self.query.get("watch") == "true"

    @property
    def lists(self) -> bool:
        return self.method == "GET" and not self.watches and self.path.endswith(f"/{self.plural}")

    @property
    def writes(self) -> bool:
        """The lease does not count: it is renewed all the time."""
        return self.method in WRITES and self.plural != "leases"

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(frozen=True)
class Answer:
    """Instead of the server's: a Status with this code."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stream:
    """Instead of a watch: these bytes, then the end."""

    content: bytes = b""


@dataclass(frozen=True)
class Silence:
    """Instead of a watch: it is open, and nothing ever comes."""


@dataclass(frozen=True)
class Torn:
    """A watch that ends in the middle of its next line: with a proper end, or as a connection that is lost."""

    proper: bool


@dataclass(frozen=True)
class Then:
    """The server's own answer, but `action` comes before the operator reads it."""

    action: Callable[[], None]


GONE = Stream(json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}).encode() + b"\n")
Fault = Answer | Stream | Silence | Torn | Then
Rule = Callable[[Seen], Fault | None]


def once(plural: str, fault: Fault) -> Rule:
    """That kind's next watch fails so, and everything else goes through."""
    told: list[Seen] = []

    def rule(seen: Seen) -> Fault | None:
        if not seen.watches or seen.plural != plural or told:
            return None
        told.append(seen)
        return fault

    return rule


@dataclass
class Open:
    """A watch under way, and the lines of it that the operator has read."""

    response: web.StreamResponse
    lines: list[bytes] = field(default_factory=list)


class Proxy:
    """For the length of a with block. `rule` decides what happens to each request; None lets everything through."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self.seen: list[Seen] = []
        self.rule: Rule | None = None
        self.kubeconfig = folder / "proxy.kubeconfig"
        self._server = plane.network.server
        pair = plane.authority.issue("test-proxy", groups=("system:masters",), file="test-proxy")
        self._tls = ssl.create_default_context(cafile=str(plane.authority.certificate))
        self._tls.load_cert_chain(pair.certificate, pair.key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._open: dict[str, set[asyncio.Task[object]]] = {}
        self._told: dict[str, list[Open]] = {}

    def __enter__(self) -> Proxy:
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        cluster = {"server": f"http://127.0.0.1:{port}"}
        self.kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "proxy",
                    "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
                    "clusters": [{"name": "proxy", "cluster": cluster}],
                    "users": [{"name": "proxy", "user": {}}],
                }
            )
        )
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def writes(self) -> list[str]:
        return [str(request) for request in self.seen if request.writes]

    def count_watches(self, plural: str) -> int:
        """How many were asked for until now."""
        return sum(seen.watches and seen.plural == plural for seen in self.seen)

    def since(self, moment: float) -> list[Seen]:
        return [request for request in self.seen if request.at >= moment]

    def cut(self, plural: str) -> None:
        """End every watch of that kind in the middle of what it was doing."""
        for task in list(self._open.get(plural, ())):
            self._loop.call_soon_threadsafe(task.cancel)

    def tell_again(self, plural: str) -> int:
        """Everything that the open watches of that kind have told, once more from the newest to the oldest; how many events that were."""
        return asyncio.run_coroutine_threadsafe(self._tell_again(plural), self._loop).result(10)

    async def _tell_again(self, plural: str) -> int:
        count = 0
        for watch in self._told.get(plural, []):
            for line in reversed(watch.lines[:]):
                await watch.response.write(line)
                count += 1
        return count

    async def _start(self) -> int:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls, limit=0), auto_decompress=False)
        app = web.Application(client_max_size=1 << 24)
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        seen = Seen(request.method, request.path, dict(request.query))
        self.seen.append(seen)
        fault = self.rule(seen) if self.rule else None
        match fault:
            case Answer(status, headers):
                body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": "made by the test"}
                return web.json_response(body, status=status, headers=headers)
            case Stream(content):
                return web.Response(body=content, content_type="application/json")
        task = asyncio.current_task()
        assert task is not None
        tasks = self._open.setdefault(seen.plural, set()) if seen.watches else set()
        tasks.add(task)
        try:
            return await self._forward(request, seen, fault)
        except aiohttp.ClientConnectionResetError:
            # The operator went away in the middle, as a killed one does.
            return web.Response(status=499)
        finally:
            tasks.discard(task)

    async def _forward(self, request: web.Request, seen: Seen, fault: Fault | None) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "accept-encoding")}
        url = self._server + request.raw_path
        async with self._session.request(request.method, url, headers=headers, data=await request.read() or None) as upstream:
            whole = b""
            if isinstance(fault, Then):
                whole = await upstream.read()
                fault.action()
            response = web.StreamResponse(status=upstream.status, headers={"Content-Type": upstream.headers.get("Content-Type", "")})
            if "Retry-After" in upstream.headers:
                response.headers["Retry-After"] = upstream.headers["Retry-After"]
            await response.prepare(request)
            match fault:
                case Silence():
                    await asyncio.Event().wait()
                case Then():
                    await response.write(whole)
                case Torn(proper):
                    await self._tear(request, response, await upstream.content.readline(), proper)
                case _ if seen.watches:
                    await self._tell(seen.plural, response, upstream.content)
                case _:
                    async for chunk in upstream.content.iter_any():
                        await response.write(chunk)
            return response

    async def _tell(self, plural: str, response: web.StreamResponse, content: aiohttp.StreamReader) -> None:
        watch = Open(response)
        self._told.setdefault(plural, []).append(watch)
        try:
            async for line in content:
                await response.write(line)
                watch.lines.append(line)
        finally:
            self._told[plural].remove(watch)

    async def _tear(self, request: web.Request, response: web.StreamResponse, line: bytes, proper: bool) -> None:
        await response.write(line[: len(line) // 2])
        if not proper and request.transport:
            request.transport.close()
