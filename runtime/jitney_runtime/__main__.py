"""`jitney-runtime`: the only wiring place. Settings -> a process for the model -> HTTP at once -> the model is loaded -> ready."""

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
    from jitney_runtime.engine_process import EngineProcess
    from jitney_runtime.server.state import ServerState, Serving


def load_model(state: ServerState, process: EngineProcess) -> Serving:
    """On the loading thread, while the engine's process loads; /readyz answers meanwhile."""
    from jitney_runtime import tokenizer
    from jitney_runtime.engine.async_engine import AsyncEngine
    from jitney_runtime.engine_process import ProcessLink
    from jitney_runtime.heap import give_back
    from jitney_runtime.server.state import Serving

    trust = state.settings.trust_remote_code
    if not trust:
        tokenizer.begin()
    ready = process.loaded(state.progress)
    words = tokenizer.read(ready.folder, trust)
    gc.collect()
    gc.freeze()
    give_back()
    link = ProcessLink(process, ready.limits, lambda error: state.lost(error))
    return Serving(AsyncEngine(link, state.settings.max_waiting, state.metrics), words)


def main() -> None:
    # Process 1 of a container ignores a signal that nobody handles, and the imports below take a second. The event loop takes this over.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = parse_settings(sys.argv[1:], os.environ)
    logging.getLogger().setLevel(settings.log_level.upper())
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from jitney_runtime.engine_process import EngineProcess

    process = EngineProcess.begin(settings)
    from jitney_runtime.server.lifecycle import Lifecycle

    code = asyncio.run(Lifecycle(settings, lambda state: load_model(state, process)).run())
    # Whoever sees this one end takes the model's memory for free.
    process.kill()
    process.ended()
    logging.shutdown()
    # The loading thread may still be at work.
    os._exit(code)


if __name__ == "__main__":
    main()
