"""What `make demo-local` needs of a machine, asked before anything is downloaded. Standard library only, for any Python from 3.6 on: one
that is too old is what it tells of."""

import importlib.util
import os
import platform
import shutil
import sys

PYTHON = (3, 11)
CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# torch with what comes with it; the test model, as it is fetched and as it is served.
ENVIRONMENT_GIGABYTES, MODEL_GIGABYTES = 6, 1
# The test model's runtime, the front door and the clients.
MEMORY_GIGABYTES = 3


def missing():
    """One sentence about the first thing that only a person can give; empty where nothing is missing."""
    return _python() or _machine() or _environment() or _model() or _memory()


def _python():
    if sys.version_info[:2] >= PYTHON:
        return ""
    found = ".".join(map(str, sys.version_info[:2]))
    return f"Python 3.11 or newer is needed and python3 is {found}: install a newer one, and put it first on PATH as python3"


def _installer():
    # Of uv, as install-uv.sh goes about it.
    if shutil.which("uv") or importlib.util.find_spec("pip") or (os.geteuid() == 0 and shutil.which("apt-get")):
        return ""
    return "uv is needed and there is no pip to install it: install python3-pip, or uv itself (docs.astral.sh/uv)"


def _machine():
    return "" if sys.platform == "linux" else f"Linux is needed and this is {platform.system()}: use a Linux machine, or a virtual one"


def _environment():
    ready = os.path.isfile(os.path.join(CHECKOUT, ".venv", "ready"))
    return "" if ready else _place(CHECKOUT, ENVIRONMENT_GIGABYTES, "move the checkout") or _installer()


def _model():
    cache = os.environ.get("JITNEY_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "jitney")
    ready = os.path.isfile(os.path.join(cache, "models", "smollm2-135m-instruct", "model.safetensors"))
    return "" if ready else _place(cache, MODEL_GIGABYTES, "set JITNEY_CACHE")


def _place(folder, gigabytes, way_out):
    there = os.path.abspath(folder)
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    if not os.access(there, os.W_OK):
        return f"{folder} is written to and you may not write to {there}: become its owner, or {way_out}"
    free = shutil.disk_usage(there).free / 1e9
    if free < gigabytes:
        return f"{gigabytes} GB of free disk are needed at {folder} and {free:.0f} GB are there: free some, or {way_out}"
    return ""


def _memory():
    with open("/proc/meminfo") as file:
        found = dict(line.split(":") for line in file)
    free = int(found["MemAvailable"].split()[0]) * 1024 / 1e9
    if free < MEMORY_GIGABYTES:
        return f"{MEMORY_GIGABYTES} GB of free memory are needed and {free:.1f} GB are there: end something that uses much"
    return ""


if __name__ == "__main__":
    words = missing()
    sys.exit(f"error: {words}" if words else 0)
