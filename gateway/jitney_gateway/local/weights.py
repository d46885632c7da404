"""How many parameters a folder's weights have, by the headers of its files: nothing else of them is read."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

# As transformers looks for them, in this order; what else lies beside them is not loaded.
ONE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Bytes of a header, as safetensors itself has it.
LONGEST = 100_000_000


def parameters(folder: Path) -> int | None:
    """None where that cannot be read: the runtime says why."""
    try:
        names = [ONE] if (folder / ONE).exists() else sorted(set(json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
        return sum(_elements(folder / name) for name in names)
    # Whatever somebody wrote there in place of texts, numbers and objects.
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, struct.error):
        return None


def _elements(file: Path) -> int:
    if not file.is_file():
        # One that is a pipe would be waited for.
        raise ValueError(f"{file} is no file")
    with file.open("rb") as weights:
        (length,) = struct.unpack("<Q", weights.read(8))
        if length > LONGEST:
            raise ValueError(f"{file} begins with no header")
        header = json.loads(weights.read(length))
    return sum(math.prod(map(int, tensor["shape"])) for name, tensor in header.items() if name != "__metadata__")
