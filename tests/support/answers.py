"""Stands in for a front door of another version, or a broken one: fixed answers by path."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answers(BaseHTTPRequestHandler):
    """What the server's `answers` has for a path: status and body."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, body = self.server.answers.get(self.path, (404, b'{"detail": "Not Found"}'))  # type: ignore[attr-defined]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""


class Server(ThreadingHTTPServer):
    answers: dict[str, tuple[int, bytes]]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def answering() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Answers) as server:
        server.answers = {}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
