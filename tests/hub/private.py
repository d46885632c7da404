"""A door before a hub that lets in whoever has the token; behind it everything is the hub's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from hub.server import Hub

# The server's own, said again for each answer.
_OWN = {"server", "date"}
_SECONDS = 120


def _handler(hub: Hub, token: str) -> type[BaseHTTPRequestHandler]:
    behind = urlsplit(hub.url)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def log_message(self, format: str, *arguments: object) -> None:
            """Quiet: the tests look at what the hub sent."""

        def _answer(self) -> None:
            if self.headers.get("Authorization") != f"Bearer {token}":
                # As the real one answers for a private repository.
                self._send(401, {"X-Error-Code": "RepoNotFound", "Content-Length": "0"}, b"")
                return
            connection = HTTPConnection(str(behind.hostname), behind.port, timeout=_SECONDS)
            asked = {"Range": self.headers["Range"]} if "Range" in self.headers else {}
            connection.request(self.command, self.path, headers=asked)
            found = connection.getresponse()
            body = found.read()
            connection.close()
            self._send(found.status, {name: value for name, value in found.getheaders() if name.lower() not in _OWN}, body)

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    return Handler


@contextmanager
def guarded(hub: Hub, token: str) -> Iterator[str]:
    """The door's URL, beside the hub on its address."""
    address = str(urlsplit(hub.url).hostname)
    server = ThreadingHTTPServer((address, 0), _handler(hub, token))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{address}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
