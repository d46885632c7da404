"""A model hub on this machine: the few routes of the hub's HTTP API that huggingface_hub uses to download a snapshot.

Repositories are folders. It can refuse like the real one (404 RepoNotFound, 403 GatedRepo, 401 for a private one), break off in the middle
of a file and continue it by Range, hold a file back, and send slowly. Each answer has another X-Request-Id, as the real one's have.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

# What main is; any other 40 digits name a commit too, with the same files.
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Nobody waits for a held file longer than this.
_LONGEST_HOLD = 120
_CHUNK = 1 << 20


@dataclass
class Hub:
    """`repositories` name -> folder; `refused` name -> (HTTP status, X-Error-Code).

    `cuts` file name -> the byte at which its next transfer breaks off, once. `held`: names of files that are not sent before `release`.
    `pace`: bytes per second and file, 0 for as fast as it goes.
    `requests` is every path asked for, `ranges` every Range header, `sent` the name of every file whose bytes went out.
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    cuts: dict[str, int] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)
    pace: int = 0
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        self.released.set()


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
            commit = _commit(rest[1] if len(rest) > 1 else "main")
            if commit is None:
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, with_body)
                return
            folder = hub.repositories[name]
            files = {file.relative_to(folder).as_posix(): file for file in sorted(folder.rglob("*")) if file.is_file()}
            if rest[:1] == ["tree"]:
                body: object = [
                    {"type": "file", "path": path, "size": file.stat().st_size, "oid": _digest(file)} for path, file in files.items()
                ]
            else:
                siblings = [{"rfilename": path, "size": file.stat().st_size} for path, file in files.items()]
                body = {"id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "downloads": 0, "siblings": siblings}
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"}, with_body)

        def _file(self, folder: Path, rest: list[str], with_body: bool) -> None:
            file = folder / "/".join(rest[2:])
            if rest[:1] != ["resolve"] or not file.is_file():
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
                return
            if with_body:
                if file.name in hub.held:
                    hub.released.wait(_LONGEST_HOLD)
                hub.sent.append(file.name)
            content = file.read_bytes()
            headers = {"ETag": f'"{_digest(file)}"', "X-Repo-Commit": _commit(rest[1]) or COMMIT, "Accept-Ranges": "bytes"}
            start = self._asked_start()
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            cut = hub.cuts.pop(file.name, None) if with_body else None
            self._send(206 if start else 200, content[start:], headers, with_body, cut)

        def _asked_start(self) -> int:
            """The first byte wanted. Downloads that go on ask from there to the end, and nobody asks otherwise."""
            asked = self.headers.get("Range")
            if asked is None:
                return 0
            hub.ranges.append(asked)
            found = re.fullmatch(r"bytes=(\d+)-", asked)
            return int(found[1]) if found else 0

        def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool, cut: int | None = None) -> None:
            """With `cut`, the headers promise all of the body and the connection ends after that many bytes."""
            self.send_response(status)
            request = f"Root=1-{uuid.uuid4().hex[:8]}-{uuid.uuid4().hex[:24]};{uuid.uuid4()}"
            for name, value in (headers | {"Content-Length": str(len(body)), "X-Request-Id": request}).items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self._write(body if cut is None else body[:cut])
            self.close_connection = self.close_connection or cut is not None

        def _write(self, body: bytes) -> None:
            if not hub.pace:
                self.wfile.write(body)
                return
            for start in range(0, len(body), _CHUNK):
                self.wfile.write(body[start : start + _CHUNK])
                time.sleep(_CHUNK / hub.pace)

    return Handler


def _commit(revision: str) -> str | None:
    """None where there is no such revision."""
    if revision == "main":
        return COMMIT
    return revision if re.fullmatch(r"[0-9a-f]{40}", revision) else None


def _digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def running_hub(address: str = "127.0.0.1") -> Iterator[Hub]:
    """A hub on a free port of one of this machine's addresses."""
    hub = Hub()
    server = ThreadingHTTPServer((address, 0), _handler(hub))
    server.daemon_threads = True
    hub.url = f"http://{address}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.release()
        server.shutdown()
        server.server_close()
        thread.join()
