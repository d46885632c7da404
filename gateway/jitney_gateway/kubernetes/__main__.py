"""`jitney-gateway`: the front door in a cluster, or from a kubeconfig beside one."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time

from jitney_gateway.catalogue import Catalogue
from jitney_gateway.errors import LEAVING, GatewayError
from jitney_gateway.kubernetes.backend import KubernetesBackend
from jitney_gateway.kubernetes.settings import Settings, SettingsError
from jitney_gateway.server import app, serving
from jitney_gateway.server.guard import Terms
from jitney_gateway.server.intake import MEBIBYTE
from jitney_gateway.server.keyring import Keyring
from jitney_gateway.server.keys import KeysError
from jitney_gateway.server.peers import Peers
from jitney_gateway.server.questions import Questions

# For the last words to who is told that no more comes, and reads slowly.
LAST_SECONDS = 5


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
    """Until SIGTERM, and until the last answer under way is out or has had its time."""
    catalogue = Catalogue.read(settings.catalogue)
    backend = await KubernetesBackend.connect(settings.namespace, settings.namespaces, settings.operator_url)
    questions = Questions(time.monotonic)
    application = app.make(backend, catalogue, settings.bounds, terms, Peers(settings.peers), questions)
    # None is ended before the last is taken.
    drain = None if settings.drain is None else max(settings.drain, settings.linger)

    async def leave() -> None:
        await backend.leave(settings.linger)

    async def finish() -> None:
        """What is under way may end, and be aborted by whoever asks; nothing is begun."""
        questions.close(GatewayError(503, "this front door is leaving: send the request again", code=LEAVING, retry_after=1))
        try:
            async with asyncio.timeout(None if drain is None else drain - settings.linger):
                await questions.none()
        except TimeoutError:
            words = f"this front door is leaving, and the answer was not done {drain} s after it was told to: send the request again"
            questions.end_all(GatewayError(503, words, code=LEAVING, retry_after=1))

    try:
        longest = None if drain is None else LAST_SECONDS
        await serving.serve(
            application, settings.host, settings.port, settings.log_level, terms.client_seconds, leave, longest_end=longest, finish=finish
        )
    finally:
        await backend.close()


if __name__ == "__main__":
    main()
