"""`jitney local`: the front door and its models on this machine, until it is told to stop."""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from jitney_gateway.catalogue import Catalogue
from jitney_gateway.local import lock
from jitney_gateway.local.backend import LocalBackend
from jitney_gateway.server import app, serving
from jitney_gateway.server.guard import Terms

logger = logging.getLogger(__name__)

# Of Xinference's server.
OLD_SWITCH, OLD_SOURCE = "XINFERENCE_TRANSFORMERS_ENABLE_BATCHING", "XINFERENCE_MODEL_SRC"
# For clients that have not read the end of their answers when every model is gone.
LAST_SECONDS = 5


def default_folder() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "jitney"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def unheeded(environment: Mapping[str, str]) -> Iterator[str]:
    """What somebody asks for as of Xinference's server, and does not get."""
    if environment.get(OLD_SWITCH) == "0":
        yield f"{OLD_SWITCH}=0 has no effect: requests always share one batch; set max_num_seqs to 1 to serve one at a time"
    source = environment.get(OLD_SOURCE)
    if source and source.lower() != "huggingface":
        yield f"{OLD_SOURCE}={source} has no effect: models come from the Hugging Face hub; HF_ENDPOINT names a mirror of it"


async def serve(host: str, port: int, folder: Path, log_level: str, check_memory: bool, terms: Terms) -> None:
    """Until it is told to stop and every model's process is gone. ValueError where the record in `folder` cannot be read, or another
    server has it."""
    for words in unheeded(os.environ):
        logger.warning(words)
    catalogue = Catalogue.read()
    with lock.held(folder):
        backend = LocalBackend(folder, catalogue, log_level, check_memory)
        application = app.make(backend, catalogue, terms=terms)
        # No model is loaded where the port is taken. New chats are refused by the runtimes themselves while answers under way are finished.
        await serving.serve(application, host, port, log_level, terms.client_seconds, backend.stop, backend.start, longest_end=LAST_SECONDS)
