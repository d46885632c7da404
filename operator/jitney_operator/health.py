"""The operator's own port: /livez, /readyz, /metrics, and /v1/verdict."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

from aiohttp import web

from jitney_operator.api import Json
from jitney_operator.errors import SettingsError
from jitney_operator.metrics import Metrics
from jitney_operator.verdict import NotAManifest

# Bytes of a manifest, seconds that it may take to come, and how many may be on their way at once: whoever reaches the port may ask, and the
# loop that answers is the one that reconciles.
LARGEST, SECONDS, AT_ONCE = 64 * 1024, 2.0, 8
# Seconds without a verdict for each second that the last one took: a fifth of the loop is theirs.
REST = 4


class Health:
    """`ready` says whether the watches are up; the process is alive as long as the event loop answers. `verdict` makes the answer for a
    manifest, or raises NotAManifest."""

    def __init__(
        self, port: int, ready: Callable[[], bool], leader: Callable[[], bool], metrics: Metrics, verdict: Callable[[object], Json]
    ) -> None:
        self._port, self._ready, self._leader, self._metrics, self._verdict = port, ready, leader, metrics, verdict
        self._asking, self._turn, self._rested = 0, asyncio.Lock(), 0.0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=LARGEST)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._text)
        app.router.add_post("/v1/verdict", self._judge)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, port=self._port).start()
        except (OSError, OverflowError) as error:
            raise SettingsError(f"JITNEY_HTTP_PORT {self._port} cannot be used: {error}; set it to a port that is free") from error

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _livez(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n") if self._ready() else web.Response(status=503, text="the watches are starting\n")

    async def _text(self, request: web.Request) -> web.Response:
        self._metrics.leader.set(self._leader())
        return web.Response(body=self._metrics.text(), content_type="text/plain")

    async def _judge(self, request: web.Request) -> web.Response:
        """Every replica answers, the one that holds the Lease or not: nothing is read and nothing written."""
        if self._asking >= AT_ONCE:
            return web.Response(status=503, text="too many ask at once\n", headers={"Retry-After": "1"})
        self._asking += 1
        try:
            try:
                async with asyncio.timeout(SECONDS):
                    text = await request.read()
            except TimeoutError:
                return web.Response(status=408, text=f"the manifest did not come within {SECONDS:.0f} s\n")
            async with self._turn:
                return await self._answer(text)
        finally:
            self._asking -= 1

    async def _answer(self, text: bytes) -> web.Response:
        await asyncio.sleep(self._rested - time.monotonic())
        begun = time.monotonic()
        try:
            return web.json_response(self._verdict(_parsed(text)))
        except NotAManifest as error:
            return web.Response(status=400, text=f"{error}\n")
        finally:
            self._rested = time.monotonic() + REST * (time.monotonic() - begun)


def _parsed(text: bytes) -> object:
    try:
        body: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotAManifest(f"the body is not JSON: {error}") from error
    return body
