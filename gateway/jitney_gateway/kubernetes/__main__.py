"""`jitney-gateway`: the front door in a cluster, or from a kubeconfig beside one."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from functools import partial

from jitney_gateway.catalogue import Catalogue
from jitney_gateway.kubernetes.backend import KubernetesBackend
from jitney_gateway.kubernetes.settings import Settings, SettingsError
from jitney_gateway.server import app, serving
from jitney_gateway.server.guard import Terms
from jitney_gateway.server.intake import MEBIBYTE
from jitney_gateway.server.keyring import Keyring
from jitney_gateway.server.keys import KeysError
from jitney_gateway.server.peers import Peers


def main() -> None:
    """The console script; exit code 2 when a variable is wrong."""
    try:
        settings = Settings.read(os.environ)
        keyring = Keyring(settings.keys_file) if settings.keys_file else None
    except SettingsError as error:
        print(f"jitney-gateway: {error}", file=sys.stderr)
        sys.exit(2)
    except KeysError as error:
        print(f"jitney-gateway: JITNEY_KEYS_FILE: {error}", file=sys.stderr)
        sys.exit(2)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    terms = Terms(keyring, settings.body_mebibytes * MEBIBYTE, settings.all_bodies_mebibytes * MEBIBYTE, settings.client_seconds)
    asyncio.run(serve(settings, terms))


async def serve(settings: Settings, terms: Terms) -> None:
    """Until SIGTERM, and until the last answer under way is out."""
    catalogue = Catalogue.read(settings.catalogue)
    backend = await KubernetesBackend.connect(settings.namespace, settings.namespaces, settings.operator_url)
    application = app.make(backend, catalogue, settings.bounds, terms, Peers(settings.peers))
    try:
        leave = partial(backend.leave, settings.linger)
        await serving.serve(application, settings.host, settings.port, settings.log_level, terms.client_seconds, leave)
    finally:
        await backend.close()


if __name__ == "__main__":
    main()
