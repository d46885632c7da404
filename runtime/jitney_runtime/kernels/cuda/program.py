"""A CUDA source compiled for one device and its kernels launched, by NVRTC and the driver. Nothing here knows torch: pointers go in."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

_FOLDER = Path(__file__).parent
_LOG_BYTES = 4000
# What a kernel takes beside pointers.
Number = ctypes.c_int | ctypes.c_longlong | ctypes.c_float


class CompileError(RuntimeError):
    """What NVRTC said of a source."""


@cache
def _nvrtc() -> ctypes.CDLL:
    """The newest that lies beside torch, or what the system has; OSError where there is none."""
    found = importlib.util.find_spec("nvidia")
    folders = [Path(folder) for folder in (found.submodule_search_locations or ())] if found else []
    libraries = sorted(file for folder in folders for file in folder.glob("*/lib/libnvrtc.so.*") if "builtins" not in file.name)
    for name in [str(file) for file in reversed(libraries)] + ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError("no NVRTC library is installed beside torch: reinstall torch's CUDA build")


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def compiled(source: str, constants: Mapping[str, int], architecture: str) -> bytes:
    """The machine code of `source`, a file beside this one, with its constants, for an architecture such as sm_90. CompileError."""
    nvrtc = _nvrtc()
    program = ctypes.c_void_p()
    headers = sorted(_FOLDER.glob("*.cuh"))
    texts = (ctypes.c_char_p * len(headers))(*(file.read_bytes() for file in headers))
    names = (ctypes.c_char_p * len(headers))(*(file.name.encode() for file in headers))
    text = (_FOLDER / source).read_bytes()
    _check(nvrtc, nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, source.encode(), len(headers), texts, names), source)
    try:
        words = [
            f"--gpu-architecture={architecture}",
            "--std=c++17",
            "--use_fast_math",
            *(f"-D{name}={constants[name]}" for name in constants),
        ]
        options = (ctypes.c_char_p * len(words))(*(word.encode() for word in words))
        if nvrtc.nvrtcCompileProgram(program, len(words), options):
            raise CompileError(f"{source} with {dict(constants)} for {architecture}: {_log(nvrtc, program)}")
        size = ctypes.c_size_t()
        _check(nvrtc, nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)), source)
        code = ctypes.create_string_buffer(size.value)
        _check(nvrtc, nvrtc.nvrtcGetCUBIN(program, code), source)
        return code.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _log(nvrtc: ctypes.CDLL, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(max(1, size.value))
    nvrtc.nvrtcGetProgramLog(program, log)
    return log.value.decode(errors="replace")[:_LOG_BYTES]


def _check(nvrtc: ctypes.CDLL, result: int, what: str) -> None:
    if result:
        nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise CompileError(f"{what}: {nvrtc.nvrtcGetErrorString(result).decode()}")


class Program:
    """The kernels of one source on the current device. Made once torch has started CUDA in this process; lives as long as it."""

    def __init__(self, source: str, constants: Mapping[str, int], architecture: str) -> None:
        self._source = source
        code = compiled(source, constants, architecture)
        self._module = ctypes.c_void_p()
        self._succeeded(_driver().cuModuleLoadData(ctypes.byref(self._module), code))
        self._functions: dict[str, ctypes.c_void_p] = {}

    def launch(
        self,
        kernel: str,
        grid: tuple[int, int, int],
        threads: int,
        stream: int,
        pointers: Sequence[int | None],
        numbers: Sequence[Number] = (),
    ) -> None:
        """Start `kernel` with its arguments, pointers first; `stream` is a CUstream's address. It has not ended when this returns."""
        values = [*(ctypes.c_void_p(pointer) for pointer in pointers), *numbers]
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        function = self._functions.get(kernel) or self._function(kernel)
        self._succeeded(_driver().cuLaunchKernel(function, *grid, threads, 1, 1, 0, ctypes.c_void_p(stream), places, None))

    def _function(self, kernel: str) -> ctypes.c_void_p:
        function = ctypes.c_void_p()
        self._succeeded(_driver().cuModuleGetFunction(ctypes.byref(function), self._module, kernel.encode()))
        self._functions[kernel] = function
        return function

    def _succeeded(self, result: int) -> None:
        if result:
            words = ctypes.c_char_p()
            _driver().cuGetErrorString(result, ctypes.byref(words))
            raise RuntimeError(f"CUDA, {self._source}: {(words.value or b'unknown error').decode()}")
