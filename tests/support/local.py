"""A real `jitney local`: started, waited for, stopped, and what its tests launch."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from cluster import ports
from support.models import smollm2_folder

T = TypeVar("T")
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
NAME = {"model_engine": "transformers", "model_name": "smollm2-instruct", "model_format": "pytorch", "model_size_in_billions": "0_135"}


def launch() -> dict[str, Any]:
    """The parameters of launch_model for the real test model, which lies in a folder."""
    return NAME | {"quantization": "none", "model_path": str(smollm2_folder())}


@dataclass
class Local:
    """A running `jitney local`."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "server.log").read_text()

    def runtimes(self) -> list[int]:
        """Ids of the model processes."""
        command = ["pgrep", "--parent", str(self.process.pid)]
        return [int(word) for word in subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()]


def until(question: Callable[[], T | None], seconds: float = 60) -> T:
    end = time.monotonic() + seconds
    while not (found := question()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.1)
    return found


@contextmanager
def running_local(folder: Path, *flags: str, **environment: str) -> Iterator[Local]:
    port = ports.free(1)[0]
    command = [sys.executable, "-m", "jitney_gateway.cli", "local", "--port", str(port), "--state-dir", str(folder), *flags]
    folder.mkdir(exist_ok=True)
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
        local = Local(process, f"http://127.0.0.1:{port}", folder)
        try:
            until(lambda: process.poll() is not None or _answers(local.url))
            yield local
        finally:
            process.terminate()
            process.wait(60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez").status_code == 200
    except httpx.TransportError:
        return False
