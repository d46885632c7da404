"""The real process that cannot start: an exit code of its own for every cause, and one line for the resource that says it."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from hub.server import Hub, running_hub
from jitney_runtime import errors
from jitney_runtime.progress import Progress
from jitney_runtime.settings import RuntimeSettings
from jitney_runtime.torch_backend import loading
from support.models import save_hollow, save_tiny, smollm2_folder
from support.process import running_runtime

MIB = 2**20


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With as many tokens as its tokenizer has: 25 MB of weights."""
    return save_tiny(tmp_path_factory.mktemp("tiny"), vocab_size=49152)


@pytest.fixture
def hub(tiny_folder: Path) -> Iterator[Hub]:
    with running_hub() as hub:
        hub.repositories["org/tiny"] = tiny_folder
        hub.refused |= {"org/gated": (403, "GatedRepo"), "org/private": (401, "RepoNotFound")}
        hub.refused |= {"org/forbidden": (403, ""), "org/broken": (500, "")}
        yield hub


def hub_environment(hub: Hub | None, tmp_path: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.url if hub else "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}


def start_error(tmp_path: Path, *arguments: str, memory: int | None = None, **environment: str) -> tuple[int, str]:
    with running_runtime(tmp_path, *arguments, memory=memory, **environment) as runtime:
        return runtime.wait_exit(), runtime.termination_line


def test_a_model_folder_that_is_not_there(tmp_path: Path):
    code, line = start_error(tmp_path, "--model", "/no/such/model")
    assert (code, line) == (10, "ModelNotFound: there is no folder /no/such/model: check the path inside the claim or image")


def test_a_revision_of_a_folder(tiny_folder: Path, tmp_path: Path):
    code, line = start_error(tmp_path, "--model", str(tiny_folder), "--revision", "v1")
    assert (code, line) == (10, f"ModelNotFound: {tiny_folder} is a folder, which has no revision 'v1': leave the revision out")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, so the device is found")
def test_a_gpu_that_is_not_there(tmp_path: Path):
    code, line = start_error(tmp_path, "--model", str(smollm2_folder()), "--device", "cuda")
    assert code == 16
    assert line.startswith("DeviceNotFound: this pod was asked to use a GPU and CUDA finds none")


def test_a_damaged_weights_file(tiny_folder: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(20 * MIB)
    code, line = start_error(tmp_path, "--model", str(folder))
    assert code == 19
    assert line.startswith(f"ModelDamaged: the weights of {folder}, of type qwen2, cannot be loaded: ")
    assert line.endswith("a file is damaged, copy or download it again")


@pytest.mark.parametrize(
    ("gigabytes", "memory", "dtype"),
    [(4.0, 3.0, "auto"), (1.5, 3.5, "float32"), (1.5, 2.5, "auto")],
    ids=["the file cannot be mapped", "the weights cannot be allocated", "the weights cannot be packed"],
)
def test_weights_that_do_not_fit_into_memory(tmp_path: Path, gigabytes: float, memory: float, dtype: str):
    """bfloat16 in the file, float32 in memory: twice as much. The limit is the kernel's, on what the process may allocate and map."""
    folder = save_hollow(tmp_path / "model", gigabytes)
    assert sum(file.stat().st_blocks * 512 for file in folder.iterdir()) < 20 * MIB
    code, line = start_error(tmp_path, "--model", str(folder), "--dtype", dtype, memory=int(memory * 2**30))
    assert (code, line) == (14, f"OutOfMemory: not enough memory for {folder}: lower maxNumSeqs or maxModelLen, or give the pod more")


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"max_model_len": 256, "kv_cache_memory": 10_000}, errors.OutOfMemory, "lower maxModelLen"),
        ({"max_model_len": 300}, errors.NotSupportedYet, "more than the 256 tokens"),
    ],
    ids=["no memory can hold it", "more than the model's"],
)
def test_a_context_window_that_cannot_be(tiny_folder: Path, arguments: dict[str, int], error: type[errors.StartError], said: str):
    settings = RuntimeSettings(str(tiny_folder), "m", device="cpu", **arguments)  # type: ignore[arg-type]
    with pytest.raises(error, match=said):
        loading.load(settings, Progress())


def test_a_port_that_is_taken(tmp_path: Path):
    """At once, without waiting for the model."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, line = start_error(tmp_path, "--model", str(smollm2_folder()), "--port", port)
    assert code == 1
    assert line.startswith(f"CrashLoop: OSError: cannot listen on 127.0.0.1 port {port}: {os.strerror(errno.EADDRINUSE)}")


def test_a_model_from_the_hub_is_downloaded_and_served(hub: Hub, tmp_path: Path):
    """Through connections that break off: huggingface_hub writes 10 MiB at a time, and what is written is not asked for again."""
    hub.cuts = {"model.safetensors": 12 * MIB, "tokenizer.json": 1000}
    environment = hub_environment(hub, tmp_path)
    with running_runtime(tmp_path, "--model", "hf://org/tiny", "--revision", "main", **environment) as runtime:
        seen = runtime.wait_ready()
        (model,) = httpx.get(f"{runtime.url}/v1/models").json()["data"]
        assert (model["id"], model["max_model_len"]) == ("tiny", 256)
        chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
        assert httpx.post(f"{runtime.url}/v1/chat/completions", json=chat, timeout=60).status_code == 200
    assert hub.ranges == [f"bytes={10 * MIB}-"]
    assert not hub.cuts
    assert any(status.get("reason") == "Downloading" for status in seen), seen


def test_a_gated_model(hub: Hub, tmp_path: Path):
    code, line = start_error(tmp_path, "--model", "org/gated", **hub_environment(hub, tmp_path))
    assert code == 11
    assert line.startswith("Unauthorized: org/gated is gated: accept its licence on the hub")


# The download by itself: it needs no torch, and so no seconds.
DOWNLOAD = """
import sys
from jitney_runtime.errors import StartError
from jitney_runtime.progress import Progress
from jitney_runtime.torch_backend.hub import model_folder
try:
    print(model_folder(sys.argv[1], sys.argv[2] or None, Progress()))
except StartError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def download(repository: str, revision: str, environment: dict[str, str]) -> tuple[int, str, str]:
    """Exit code, what is printed, and what stands in the log."""
    command = [sys.executable, "-c", DOWNLOAD, repository, revision]
    ended = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=100)
    return ended.returncode, ended.stdout.strip(), ended.stderr


@pytest.mark.parametrize(
    ("repository", "revision", "code", "said"),
    [
        ("org/absent", "", 10, "the hub has no repository org/absent"),
        ("org/tiny", "v9", 10, "org/tiny has no revision 'v9'"),
        (
            "org/private",
            "",
            11,
            "the hub refuses org/private (HTTP 401): it is private, gated or absent; check HF_TOKEN or hfTokenSecretRef",
        ),
        (
            "org/forbidden",
            "",
            11,
            "the hub refuses org/forbidden (HTTP 403): it is private, gated or absent; check HF_TOKEN or hfTokenSecretRef",
        ),
        ("org/broken", "", 12, "the hub cannot be reached to download org/broken"),
    ],
    ids=["absent", "revision", "private", "forbidden", "the hub's own error"],
)
def test_what_the_hub_refuses(hub: Hub, tmp_path: Path, repository: str, revision: str, code: int, said: str):
    ended, line, _ = download(repository, revision, hub_environment(hub, tmp_path))
    assert (ended, line[: len(said)]) == (code, said)
    assert "\n" not in line


def test_only_what_a_model_is_made_of_is_downloaded(hub: Hub, tiny_folder: Path, tmp_path: Path):
    """Pickled weights run code; folders and second forms of the weights may be larger than the model."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    unwanted = ["pytorch_model.bin", "onnx/model.safetensors", "original/params.json", "consolidated.safetensors", "modeling.py"]
    for name in unwanted:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    hub.repositories["org/much"] = folder
    code, where, _ = download("org/much", "", hub_environment(hub, tmp_path))
    assert code == 0
    assert {file.name for file in Path(where).iterdir()} == {file.name for file in tiny_folder.iterdir()}


def test_a_hub_that_cannot_be_reached(tmp_path: Path):
    code, line = start_error(tmp_path, "--model", "org/tiny", **hub_environment(None, tmp_path))
    assert (code, line.split(":")[0]) == (12, "HubUnreachable")


def test_a_disk_that_is_full(hub: Hub, small_disk: Path, tmp_path: Path):
    code, line = start_error(tmp_path, "--model", "org/tiny", **hub_environment(hub, small_disk))
    assert (code, line) == (13, "DiskFull: the disk is full while downloading org/tiny: give the cache more room")
    assert shutil.disk_usage(small_disk).total == 8 * MIB


def test_a_disk_that_may_not_be_written_is_not_called_an_unreachable_hub(hub: Hub, small_disk: Path, tmp_path: Path):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, line = start_error(tmp_path, "--model", "org/tiny", **hub_environment(hub, small_disk))
    assert code == 18
    assert line.startswith(f"CacheNotWritable: user {os.getuid()} may not write to {small_disk}/hf")
    assert line.endswith(", where org/tiny was to be downloaded to")
