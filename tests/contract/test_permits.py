"""Variables that the operator refuses where foreign code is not allowed do bring it into the runtime's process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import markupsafe._speedups
import pytest
import torch

from jitney_operator import permits
from jitney_operator.api import Spec
from jitney_operator.errors import Rejected
from jitney_operator.settings import Allow

# The runtime's imports, and one product: a convolution, which every processor leaves to the library that a model's products in bfloat16 are
# left to by some.
PRODUCT = "torch.nn.functional.conv2d(torch.ones(2, 64, 32, 32), torch.ones(64, 64, 3, 3))"
WORK = f"import jitney_runtime.__main__, torch; {PRODUCT}"
MARK = "torch.cuda.nvtx.mark('x')"


def own(folder: Path) -> Path:
    """Somebody's own library, as a claim could hold it: a package's, because a compiler is not everywhere."""
    path = folder / "own.so"
    shutil.copy(markupsafe._speedups.__file__, path)
    return path


def runs(library: Path, code: str, **environment: str) -> bool:
    """Whether the linker has run the library's code in a process that does this work."""
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | {"LD_DEBUG": "files"} | environment
    ).stderr
    assert "calling init: " in told, "the linker does not say what it does"
    return f"calling init: {library}" in told


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("INTEL_LIBITTNOTIFY64", WORK),
        ("INTEL_JIT_PROFILER64", WORK),
        ("LD_PRELOAD", WORK),
        pytest.param(
            "NVTX_INJECTION64_PATH",
            f"{WORK}; {MARK}",
            marks=pytest.mark.skipif(torch.version.cuda is None, reason="this torch has no CUDA, and so no NVTX"),
        ),
    ],
)
def test_a_refused_variable_brings_code_in(name: str, work: str, tmp_path: Path):
    library = own(tmp_path)
    assert runs(library, work, **{name: str(library)})
    mdep = Spec.parse({"model": "org/repo", "env": [{"name": name, "value": str(library)}]}, "chat")
    with pytest.raises(Rejected, match=f"foreign code, which {name} could bring in"):
        permits.check(mdep, Allow(images=("*",), env=("*",)))


def test_without_it_none_comes(tmp_path: Path):
    assert not runs(own(tmp_path), WORK)
