"""`jitney-runtime`: the only wiring place. Settings -> HTTP at once -> model on a thread -> engine -> ready."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING

from jitney_runtime.settings import parse_settings

if TYPE_CHECKING:
    from jitney_runtime.server.state import ServerState, Serving


def load_model(state: ServerState) -> Serving:
    """On the loading thread. torch and transformers are imported here: that takes seconds, and /readyz answers meanwhile."""
    from jitney_runtime.engine.async_engine import AsyncEngine
    from jitney_runtime.engine.engine import Engine
    from jitney_runtime.server.state import Serving
    from jitney_runtime.torch_backend.loading import load

    loaded = load(state.settings, state.progress)
    # A million objects that live as long as the process: looking through them took half a second, in the middle of everybody's answer.
    gc.collect()
    gc.freeze()
    engine = AsyncEngine(Engine(loaded.scheduler, loaded.runner), state.settings.max_waiting, state.metrics)
    return Serving(engine, loaded.tokenizer)


def main() -> None:
    # Process 1 of a container ignores a signal that nobody handles, and the imports below take a second. The event loop takes this over.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = parse_settings(sys.argv[1:], os.environ)
    logging.getLogger().setLevel(settings.log_level.upper())
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from jitney_runtime.server.lifecycle import Lifecycle
    from jitney_runtime.torch_backend.threads import leave_cores_to_kernels

    leave_cores_to_kernels(settings.kernel, os.environ)
    # The engine's thread and the event loop hand the interpreter to each other at every step, which on a GPU takes less than the 5 ms that
    # Python has them wait.
    sys.setswitchinterval(0.0005)
    code = asyncio.run(Lifecycle(settings, load_model).run())
    logging.shutdown()
    # A loading thread may still be inside torch, and an interpreter shutdown would wait for it.
    os._exit(code)


if __name__ == "__main__":
    main()
