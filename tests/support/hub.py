"""A model hub on this machine: the few routes of the hub's HTTP API that huggingface_hub uses to download a snapshot.

Repositories are folders. It can refuse like the real one: unknown (404 RepoNotFound), gated (403 GatedRepo), private (401).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`repositories` name -> folder; `refused` name -> (HTTP status, X-Error-Code); `requests` every path asked for."""

    repositories: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def log_message(self, format: str, *arguments: object) -> None:
            """Quiet: the tests look at `hub.requests`."""

        def _answer(self, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.requests.append(path)
            is_api = path.startswith("api/models/")
            parts = path.removeprefix("api/models/").split("/")
            name = "/".join(parts[:2])
            if name in hub.refused:
                status, code = hub.refused[name]
                self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "refused"}, with_body)
            elif name not in hub.repositories:
                self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, with_body)
            elif is_api:
                self._api(name, parts[2:], with_body)
            else:
                self._file(hub.repositories[name], parts[2:], with_body)

        def _api(self, name: str, rest: list[str], with_body: bool) -> None:
            if len(rest) > 1 and rest[1] not in ("main", COMMIT):
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body)
                return
            files = sorted(file for file in hub.repositories[name].iterdir() if file.is_file())
            if rest[:1] == ["tree"]:
                body: object = [{"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _digest(file)} for file in files]
            else:
                siblings = [{"rfilename": file.name, "size": file.stat().st_size} for file in files]
                body = {"id": name, "modelId": name, "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "siblings": siblings}
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"}, with_body)

        def _file(self, folder: Path, rest: list[str], with_body: bool) -> None:
            file = folder / "/".join(rest[2:])
            if rest[:1] != ["resolve"] or not file.is_file():
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
                return
            self._send(200, file.read_bytes(), {"ETag": f'"{_digest(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}, with_body)

        def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    return Handler


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a free port of the loopback address."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
