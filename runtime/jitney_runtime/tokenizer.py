"""The tokenizer of a model's folder, in the process that speaks HTTP and holds no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jitney_runtime.text.tokenizer import Tokenizer


def begin() -> None:
    """Imports that take a second. transformers imports torch where there is one, which takes 230 MB more and is for tensors that nobody
    wants here; code that comes with a model may want it."""
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    # It would say that without torch there are no models.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers.models.auto.tokenization_auto  # noqa: F401


def read(folder: Path, trust: bool) -> Tokenizer:
    """It was read by the engine's process before, which said what is wrong with it."""
    from transformers import AutoTokenizer

    tokenizer: Tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    return tokenizer
