"""Whether a model that no catalogue knows finds memory, told by `jitney local` before it starts a process. Runtimes are stand-ins."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jitney_gateway.catalogue import Catalogue
from jitney_gateway.errors import GatewayError
from jitney_gateway.fit import Verdict
from jitney_gateway.launch import Launch
from jitney_gateway.local import memory, weights
from jitney_gateway.local.backend import LocalBackend
from jitney_gateway.machine import Machine
from support import standin
from support.local import Local, running_local
from support.models import save_hollow

ENGINE = {"model_engine": "transformers", "n_gpu": 0}
TERABYTE = 1e12


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    folder = tmp_path_factory.mktemp("memory")
    with running_local(folder / "state", **standin.install(folder / "standin", standin.READY)) as local:
        yield local


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose weights say that they are a terabyte of bfloat16, and take no disk."""
    folder = save_hollow(tmp_path_factory.mktemp("huge"), TERABYTE / 1e9)
    file = folder / "model.safetensors"
    assert (file.stat().st_size > 0.9 * TERABYTE, file.stat().st_blocks < 2048) == (True, True)
    return folder


def refused(local: Local, **body: Any) -> str:
    """Its words, in which it was refused for memory, before anything was begun."""
    assert httpx.post(f"{local.url}/v1/models/fit", json=ENGINE | body).json()["verdict"] == "does_not_fit"
    answer = httpx.post(f"{local.url}/v1/models", json=ENGINE | body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "does_not_fit"), answer.text
    assert httpx.get(f"{local.url}/v1/models").json()["data"] == []
    assert not local.runtimes()
    return str(answer.json()["detail"])


def test_a_folder_whose_weights_do_not_fit(local: Local, huge: Path):
    assert "huge needs 1863.2 GiB (weights 1862.7) and this machine has" in refused(local, model_name="huge", model_path=str(huge))
    assert "(weights 931.3)" in refused(local, model_name="huge", model_path=huge.as_uri(), torch_dtype="bfloat16")
    assert "(weights 469.3)" in refused(local, model_name="huge", model_path=str(huge), quantization="int8")
    assert "for 2 replicas of" in refused(local, model_name="huge", model_path=str(huge), replica=2)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_quantized_model_is_held_by_a_cpu(quantization: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Machine, "here", lambda: Machine(8, 1, 2**33, 2**32))
    entry = Catalogue.read().find("smollm2-instruct", "1.7")
    assert memory.needs(Launch("m"), entry) == 0
    quantized = Launch("m", quantization=quantization)
    assert (memory.device(quantized), memory.device(Launch("m"))) == ("cpu", "auto")
    assert 0 < memory.needs(quantized, entry) < memory.needs(Launch("m", device="cpu"), entry) / 2


async def test_a_quantized_model_is_not_put_on_a_gpu(tmp_path: Path):
    backend = LocalBackend(tmp_path, Catalogue.read())
    with pytest.raises(GatewayError, match="int8 is served on a CPU, and not on a GPU yet: take n_gpu None, or none"):
        await backend.launch(Launch("smollm2-instruct", size="0.135", device="cuda", quantization="int8"))


def test_a_custom_model_on_a_hub_is_as_large_as_its_family_says(local: Local):
    spec = {"model_format": "pytorch", "quantization": "none", "model_id": "org/mine"}
    specs = [spec | {"model_size_in_billions": size} for size in (500, "0_1")]
    family = json.dumps({"model_name": "mine", "model_specs": specs})
    assert httpx.post(f"{local.url}/v1/model_registrations/LLM", json={"model": family}).status_code == 200
    assert "mine 500 needs 1863.1 GiB" in refused(local, model_name="mine", model_size_in_billions=500)
    small = ENGINE | {"model_name": "mine", "model_size_in_billions": "0_1"}
    assert httpx.post(f"{local.url}/v1/models/fit", json=small).json()["verdict"] == "fits"


def test_a_repository_is_as_large_as_is_said(local: Local):
    assert "org/huge 500 needs" in refused(local, model_name="org/huge", size_in_billions=500)
    told = httpx.post(f"{local.url}/v1/models/fit", json=ENGINE | {"model_name": "org/huge"}).json()
    assert (told["verdict"], "known once it is loaded" in told["message"]) == ("unknown", True)


async def test_a_folder_that_is_loading_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = save(tmp_path / "weights", weights.ONE, 2**28)
    backend = LocalBackend(tmp_path / "state", Catalogue.read())
    launch = Launch("mine", device="cpu", model_path=str(folder), envs=standin.install(tmp_path / "standin", standin.STARTING))
    # Whatever else this machine does meanwhile.
    monkeypatch.setattr(memory, "available", lambda: 3 * memory.GIB)
    try:
        assert (await backend.fit(launch)).verdict is Verdict.FITS
        await backend.launch(launch)
        second = await backend.fit(launch)
        assert (second.verdict, "models that are loading will take 1." in second.message) == (Verdict.FITS, True)
        monkeypatch.setattr(memory, "available", lambda: 2 * memory.GIB)
        assert (await backend.fit(launch)).verdict is Verdict.DOES_NOT_FIT
    finally:
        await backend.stop()


# What a folder's weights say


def save(folder: Path, name: str, *rows: int) -> Path:
    """A file of so many tensors of one column each, of which only the header is there."""
    folder.mkdir(exist_ok=True)
    header = {f"t{number}": {"dtype": "F32", "shape": [count, 1], "data_offsets": [0, 0]} for number, count in enumerate(rows)}
    head = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    (folder / name).write_bytes(struct.pack("<Q", len(head)) + head)
    return folder


def test_what_transformers_would_load_is_counted(tmp_path: Path):
    assert weights.parameters(tmp_path) is None
    save(tmp_path, "consolidated.safetensors", 1000)
    assert weights.parameters(tmp_path) is None
    save(tmp_path, "a.safetensors", 3, 4)
    save(tmp_path, "b.safetensors", 5)
    names = {"t0": "a.safetensors", "t1": "a.safetensors", "u0": "b.safetensors"}
    (tmp_path / weights.INDEX).write_text(json.dumps({"weight_map": names}))
    assert weights.parameters(tmp_path) == 12
    (tmp_path / "b.safetensors").unlink()
    assert weights.parameters(tmp_path) is None
    save(tmp_path, weights.ONE, 7)
    assert weights.parameters(tmp_path) == 7


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\x01", struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 9) + b'{"t": {}}',
        struct.pack("<Q", 19) + b'{"t": {"shape": 5}}', struct.pack("<Q", 24) + b'{"t": {"shape": ["x"]}}\xff',
        struct.pack("<Q", 100_000) + b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_header_that_is_none_says_nothing(tmp_path: Path, content: bytes):
    (tmp_path / weights.ONE).write_bytes(content)
    assert weights.parameters(tmp_path) is None


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {"t": 5}}', '{"weight_map": {"t": []}}', "\xff"])
def test_an_index_that_is_none_says_nothing(tmp_path: Path, index: str):
    (tmp_path / weights.INDEX).write_text(index, encoding="latin-1")
    assert weights.parameters(tmp_path) is None


def test_nobody_waits_for_a_pipe(tmp_path: Path):
    os.mkfifo(tmp_path / weights.ONE)
    assert weights.parameters(tmp_path) is None
