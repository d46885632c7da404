"""torch's compiler stays away until somebody needs more of it than to be left alone. Each case in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.models import smollm2_folder

BEGIN = """
import sys
from jitney_runtime.torch_backend.lean import COMPILER, import_transformers

def real():
    return sys.modules[COMPILER].__file__ is not None if "__file__" in vars(sys.modules[COMPILER]) else False

import_transformers()
import torch
assert not real()
"""
LOADED = """
from pathlib import Path
from jitney_runtime.progress import Progress
from jitney_runtime.settings import RuntimeSettings
from jitney_runtime.torch_backend.loading import load

load(RuntimeSettings(FOLDER, "m", device="cpu", max_model_len=256), Progress())
assert not real()
assert "torch.distributed.tensor" not in sys.modules
"""
WANTED = {
    "marked": """
@torch.compiler.disable
def one(x):
    return x + 1

@torch.compiler.disable(recursive=False)
def two(x):
    return x + 2

assert (one(1), two(1), real()) == (2, 3, False)
""",
    "attribute": "assert torch._dynamo.is_compiling() is False and real()",
    "part": "import torch._dynamo.config as part\nassert part is torch._dynamo.config is sys.modules['torch._dynamo.config'] and real()",
    "from": "from torch._dynamo import config\nassert config.__name__ == 'torch._dynamo.config' and real()",
    "mask": "from transformers.masking_utils import TransformGetItemToIndex as mode\nassert not real()\nwith mode():\n    assert real()",
    "compiled": "twice = torch.compile(lambda x: x * 2, backend='eager')\nassert twice(torch.ones(2)).tolist() == [2, 2] and real()",
}


def run(text: str) -> None:
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", WANTED)
def test_whoever_needs_it_has_the_real_one(kind: str):
    run(BEGIN + WANTED[kind])


def test_a_model_is_loaded_without_it():
    run(BEGIN + LOADED.replace("FOLDER", repr(str(smollm2_folder()))))
