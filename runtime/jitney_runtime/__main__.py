"""`jitney-runtime`: the only wiring place. Settings -> HTTP at once -> model on a thread -> engine -> ready."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from jitney_runtime.server.lifecycle import Lifecycle
from jitney_runtime.server.state import ServerState, Serving
from jitney_runtime.settings import parse_settings


def load_model(state: ServerState) -> Serving:
    """On the loading thread. torch and transformers are imported here: that takes seconds, and /readyz answers meanwhile."""
    from jitney_runtime.engine.async_engine import AsyncEngine
    from jitney_runtime.engine.engine import Engine
    from jitney_runtime.torch_backend.loading import load

    loaded = load(state.settings, state.progress)
    engine = AsyncEngine(Engine(loaded.scheduler, loaded.runner), state.settings.max_waiting, state.metrics)
    return Serving(engine, loaded.tokenizer)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = parse_settings(sys.argv[1:], os.environ)
    logging.getLogger().setLevel(settings.log_level.upper())
    logging.getLogger("httpx").setLevel(logging.WARNING)
    code = asyncio.run(Lifecycle(settings, load_model).run())
    logging.shutdown()
    # A loading thread may still be inside torch, and an interpreter shutdown would wait for it.
    os._exit(code)


if __name__ == "__main__":
    main()
