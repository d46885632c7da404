"""What stands in a runtime's place on a pod's address, for tests of what the operator makes of its answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Answer:
    """The same for every GET until a test changes it; a `body` that can be called is given the path. `asked` counts them."""

    status: int
    body: bytes | Callable[[str], bytes]
    headers: dict[str, str] = field(default_factory=dict)
    asked: int = 0


@contextmanager
def answering(address: str, status: int = 200, body: bytes | Callable[[str], bytes] = b"") -> Iterator[Answer]:
    """On port 8000 of an address of this machine, as `127.0.53.7`."""
    answer = Answer(status, body)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer.asked += 1
            content = answer.body(self.path) if callable(answer.body) else answer.body
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(content)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer((address, 8000), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield answer
    finally:
        server.shutdown()
        server.server_close()
