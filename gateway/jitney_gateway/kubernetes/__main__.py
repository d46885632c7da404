"""`jitney-gateway`: the front door in a cluster, or from a kubeconfig beside one."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from jitney_gateway.catalogue import Catalogue
from jitney_gateway.kubernetes.backend import KubernetesBackend
from jitney_gateway.kubernetes.settings import Settings, SettingsError
from jitney_gateway.server import app, serving


def main() -> None:
    """The console script; exit code 2 when a variable is wrong."""
    try:
        settings = Settings.read(os.environ)
    except SettingsError as error:
        print(f"jitney-gateway: {error}", file=sys.stderr)
        sys.exit(2)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(serve(settings))


async def serve(settings: Settings) -> None:
    """Until SIGTERM, and until the last answer under way is out."""
    catalogue = Catalogue.read(settings.catalogue)
    backend = await KubernetesBackend.connect(settings.namespace, settings.namespaces)
    application = app.make(backend, catalogue, settings.bounds)
    try:
        await serving.serve(application, settings.host, settings.port, settings.log_level, lambda: backend.leave(settings.linger))
    finally:
        await backend.close()


if __name__ == "__main__":
    main()
