"""Finds the build of the kernels for this CPU and declares its functions. Without one, callers keep to torch's operators."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent / "lib"
# Widest first: the build, and the flags in /proc/cpuinfo that it needs (the x86-64 psABI's levels 4 and 3, as far as the kernels use them).
_V3 = {"avx2", "bmi2", "fma"}
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_BUILDS = (
    ("x86-64-v4-bf16", _V4 | {"avx512_bf16", "avx512_vnni"}),
    ("x86-64-v4", _V4),
    ("x86-64-v3", _V3),
)
_POINTER, _LONG, _FLOAT, _UNSIGNED = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_uint
# How many pointers, numbers and floats each kernel takes, in this order; the threads to use follow. The order is that of replay.c.
KERNELS = {
    "linear": (5, 4, 0),
    "rms_norm": (3, 5, 2),
    "silu_mul": (2, 2, 0),
    "rotary": (4, 5, 0),
    "store": (4, 4, 0),
    "attend": (4, 2, 0),
    "add": (3, 1, 0),
}
_OTHERS: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "jitney_width": (_LONG, ()),
    "jitney_has_format": (_LONG, (_LONG,)),
    "jitney_packed_bytes": (_LONG, (_LONG, _LONG, _LONG)),
    "jitney_row_bytes": (_LONG, (_LONG, _LONG)),
    "jitney_pack": (None, (_POINTER, _POINTER, _LONG, _LONG, _LONG, _UNSIGNED)),
    "jitney_attention_supports": (_LONG, (_LONG, _LONG, _LONG)),
    "jitney_argmax": (None, (_POINTER, _POINTER, _LONG, _LONG, _UNSIGNED)),
    "jitney_replay": (None, (_POINTER, _LONG, _UNSIGNED)),
}


class Call(ctypes.Structure):
    """`struct call` of replay.c."""

    _fields_ = [("kernel", _LONG), ("pointers", _POINTER * 5), ("numbers", _LONG * 5), ("floats", _FLOAT * 2)]


class Layer(ctypes.Structure):
    """`struct layer` of kernels.h."""

    _fields_ = [
        ("keys", _POINTER),
        ("values", _POINTER),
        ("heads", _LONG),
        ("kv_heads", _LONG),
        ("key_dim", _LONG),
        ("value_dim", _LONG),
        ("block_size", _LONG),
        ("block_bytes", _LONG),
        ("narrow", _LONG),
        ("window", _LONG),
        ("scale", _FLOAT),
    ]


class Prompt(ctypes.Structure):
    """`struct prompt` of kernels.h."""

    _fields_ = [("table", _POINTER), ("first", _LONG), ("count", _LONG), ("start", _LONG)]


class Step(ctypes.Structure):
    """`struct step` of kernels.h."""

    _fields_ = [
        ("slots", _POINTER),
        ("index", _POINTER),
        ("tables", _POINTER),
        ("lengths", _POINTER),
        ("tokens", _LONG),
        ("rows", _LONG),
        ("width", _LONG),
        ("prompts", _POINTER),
        ("prompt_count", _LONG),
    ]


@cache
def kernels() -> ctypes.CDLL | None:
    """The library, None where there is no build for this CPU. A call releases the interpreter's lock."""
    name = _build()
    if name is None:
        return None
    library = ctypes.CDLL(str(_FOLDER / f"kernels-{name}.so"))
    for other, (result, arguments) in _OTHERS.items():
        getattr(library, other).restype = result
        getattr(library, other).argtypes = list(arguments)
    for kernel, (pointers, numbers, floats) in KERNELS.items():
        function = getattr(library, f"jitney_{kernel}")
        function.restype = None
        function.argtypes = [_POINTER] * pointers + [_LONG] * numbers + [_FLOAT] * floats + [_UNSIGNED]
    return library


def _build() -> str | None:
    flags = _cpu_flags()
    if os.environ.get("ATEN_CPU_CAPABILITY") == "avx2":
        # Who holds torch to a smaller instruction set means us as well.
        flags = {flag for flag in flags if not flag.startswith("avx512")}
    for name, needed in _BUILDS:
        if needed <= flags and (_FOLDER / f"kernels-{name}.so").exists():
            return name
    return None


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())
