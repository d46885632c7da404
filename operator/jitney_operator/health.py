"""The operator's own port: /livez, /readyz, /metrics."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from jitney_operator.errors import SettingsError
from jitney_operator.metrics import Metrics


class Health:
    """`ready` says whether the watches are up; the process is alive as long as the event loop answers."""

    def __init__(self, port: int, ready: Callable[[], bool], leader: Callable[[], bool], metrics: Metrics) -> None:
        self._port, self._ready, self._leader, self._metrics = port, ready, leader, metrics
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._text)
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
