"""llama.cpp's server by xllamacpp, run with the Python of its environment: `llamacpp.py GGUF PORT ROWS WINDOW
THREADS KEPT`. KEPT is how many MiB the prompts of earlier chats may take."""

from __future__ import annotations

import signal
import sys

import xllamacpp  # type: ignore[import-not-found]


def main() -> None:
    file, (port, rows, window, threads, kept) = sys.argv[1], map(int, sys.argv[2:])
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.hostnames, params.port = ["127.0.0.1"], port
    # One window for each row, as the other servers have it.
    params.n_parallel, params.n_ctx = rows, rows * window
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cont_batching, params.warmup, params.cache_ram_mib = True, True, kept
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
