"""A runtime that does as a test says: it answers its probes out of a file, and may be deaf to SIGTERM. Nothing is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Found before the real one, because PYTHONPATH is.
PROGRAM = """
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if os.environ.get("DEAF"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

class Probes(BaseHTTPRequestHandler):
    def do_GET(self):
        said = json.load(open(os.environ["SAID"]))
        status, body = said.get(self.path, [404, None])
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        pass

print("the stand-in listens", flush=True)
ThreadingHTTPServer((given["--host"], int(given["--port"])), Probes).serve_forever()
"""
READY = {"/readyz": [200, {"status": "ready"}], "/livez": [200, {"status": "alive"}]}
STARTING = {"/readyz": [503, {"status": "starting", "progress": "loading 10 %"}], "/livez": [200, {"status": "alive"}]}
DEAD = {"/readyz": [503, {"status": "failed", "progress": "the engine has stopped"}], "/livez": [503, {"status": "dead"}]}


def install(folder: Path, said: dict[str, Any]) -> dict[str, str]:
    """The environment with which `python -m jitney_runtime` is this one; SAID names the file of its answers."""
    folder.mkdir(exist_ok=True)
    (folder / "jitney_runtime.py").write_text(PROGRAM)
    say(folder, said)
    return {"PYTHONPATH": str(folder), "SAID": str(folder / "said.json")}


def say(folder: Path, said: dict[str, Any]) -> None:
    unfinished = folder / "said.new"
    unfinished.write_text(json.dumps(said))
    unfinished.replace(folder / "said.json")
