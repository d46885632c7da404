"""`jitney-gateway`: the front door in a cluster, or from a kubeconfig beside one."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from jitney_gateway.catalogue import Catalogue
from jitney_gateway.kubernetes.backend import KubernetesBackend
from jitney_gateway.server import app, serving

PORT = 9997


def main() -> None:
    """The console script; exit code 2 when a variable is wrong."""
    level = (os.environ.get("JITNEY_LOG_LEVEL") or "info").lower()
    port = os.environ.get("JITNEY_HTTP_PORT") or str(PORT)
    if level not in ("debug", "info", "warning", "error"):
        sys.exit(_complain(f"JITNEY_LOG_LEVEL must be debug, info, warning or error, not {level}"))
    if not port.isdigit() or not 0 < int(port) < 65536:
        sys.exit(_complain(f"JITNEY_HTTP_PORT must be a port, not {port}"))
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(os.environ.get("JITNEY_HOST") or "0.0.0.0", int(port), os.environ.get("JITNEY_NAMESPACE") or "default", level))


def _complain(sentence: str) -> int:
    print(f"jitney-gateway: {sentence}", file=sys.stderr)
    return 2


async def serve(host: str, port: int, namespace: str, level: str) -> None:
    """Until SIGTERM."""
    catalogue = Catalogue.read()
    backend = await KubernetesBackend.connect(namespace)
    await serving.serve(app.make(backend, catalogue), host, port, level, backend.close)


if __name__ == "__main__":
    main()
