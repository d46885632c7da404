"""An image in the runtime's place that says at once that it is ready: for what is decided before anything in an image runs.

The runtime's own has five gigabytes to compress on their way to a registry; this one has the base image's layer, which nodes have already.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.images import BASE_IMAGE, Builder

NAME = "localhost/jitney-stand-in:1"
# Takes whatever flags the operator gives, as arguments that nobody reads.
PROGRAM = """
from http.server import BaseHTTPRequestHandler, HTTPServer

class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "ready"}')

HTTPServer(("", 8000), Ready).serve_forever()
"""


@contextmanager
def built(builder: Builder) -> Iterator[str]:
    """Its name in the builder's storage, where it stays no longer than the with block."""
    builder.base()
    container = builder.run("from", "--pull-never", BASE_IMAGE)
    builder.run("config", "--entrypoint", json.dumps(["/usr/bin/python3", "-c", PROGRAM]), container)
    builder.run("commit", "--quiet", "--rm", container, NAME)
    try:
        yield NAME
    finally:
        builder.run("rmi", NAME)
