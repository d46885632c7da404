"""Stands in for the kubelet of one node towards a real API server: it leads forwarded ports to this machine's, as a pod in the host's
network would have them, and has a log for every container."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from types import TracebackType
from typing import Self

from aiohttp import WSMsgType, web

from cluster import ports
from cluster.control_plane import ControlPlane

NODE = "n1"


class Kubelet:
    """Registers its node on entering."""

    def __init__(self, plane: ControlPlane) -> None:
        self._plane = plane
        self.forwarded: list[str] = []
        self.log = b""
        self.asked: list[tuple[str, dict[str, str]]] = []
        self._loop = asyncio.new_event_loop()
        self._port = ports.free(1)[0]

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(30)
        self._plane.kubectl("create", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}))
        status = {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._port}},
        }
        self._plane.kubectl("patch", "node", NODE, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        pair = self._plane.authority.issue(f"system:node:{NODE}", groups=("system:nodes",), hosts=("127.0.0.1",))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pair.certificate, pair.key)
        app = web.Application()
        app.router.add_get("/portForward/{namespace}/{pod}", self._forward)
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        runner = web.AppRunner(app, shutdown_timeout=1)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", self._port, ssl_context=context).start())
        ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _logs(self, request: web.Request) -> web.Response:
        self.asked.append(("/".join(request.match_info.values()), {name: word for name, word in request.query.items() if word != "false"}))
        return web.Response(body=self.log)

    async def _forward(self, request: web.Request) -> web.WebSocketResponse:
        """Channel 0 for data, 1 for errors; each begins with the port's number."""
        port = int(request.query["port"])
        self.forwarded.append(f"{request.match_info['namespace']}/{request.match_info['pod']}:{port}")
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",))
        await socket.prepare(request)
        for channel in (0, 1):
            await socket.send_bytes(bytes([channel]) + port.to_bytes(2, "little"))
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            await socket.send_bytes(b"\x01" + str(error).encode())
            await socket.close()
            return socket
        back = asyncio.create_task(self._back(reader, socket))
        async for message in socket:
            if message.type == WSMsgType.BINARY and message.data[:1] == b"\x00":
                writer.write(message.data[1:])
                await writer.drain()
        writer.close()
        back.cancel()
        return socket

    async def _back(self, reader: asyncio.StreamReader, socket: web.WebSocketResponse) -> None:
        while data := await reader.read(65536):
            await socket.send_bytes(b"\x00" + data)
        await socket.close()
