"""A runtime whose start never gets on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.kubectl import wait_for
from hub.server import Hub, running_hub
from support.models import save_tiny
from support.process import RuntimeProcess, running_runtime


@contextmanager
def downloading_for_ever(folder: Path) -> Iterator[tuple[RuntimeProcess, Hub]]:
    """Its weights' download has begun, and the hub never sends them."""
    with running_hub() as hub:
        hub.repositories["org/tiny"] = save_tiny(folder / "model")
        hub.held.add("model.safetensors")
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DOWNLOAD_TIMEOUT": "100"}
        with running_runtime(folder, "--model", "org/tiny", **environment) as runtime:
            wait_for(lambda: any(path.endswith("model.safetensors") for path in hub.requests), 60, "a download")
            yield runtime, hub
