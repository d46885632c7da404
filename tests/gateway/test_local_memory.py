"""Whether a model that no catalogue knows finds memory, told by `jitney local` before it starts a process. Runtimes are stand-ins."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from jitney_gateway.catalogue import Catalogue, Entry
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
    needs = refused(local, model_name="huge", model_path=str(huge), torch_dtype="bfloat16")
    assert "huge needs 931.9 GiB (weights 931.3) and this machine has" in needs
    assert "(weights 1862.7)" in refused(local, model_name="huge", model_path=huge.as_uri(), torch_dtype="float32")
    assert "(weights 469.3)" in refused(local, model_name="huge", model_path=str(huge), quantization="int8")
    assert "for 2 replicas of" in refused(local, model_name="huge", model_path=str(huge), replica=2)


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_a_gpu_holds_quantized_models_too(quantization: str, monkeypatch: pytest.MonkeyPatch):
    entry = Catalogue.read().find("smollm2-instruct", "1.7")
    monkeypatch.setattr(Machine, "here", lambda: Machine(8, 1, 2**33, 2**32))
    assert memory.needs(Launch("m", quantization=quantization), entry) == 0
    assert memory.fit(Launch("m", quantization=quantization), entry, 0).verdict is Verdict.UNKNOWN
    monkeypatch.setattr(Machine, "here", lambda: Machine(8, 0, 2**33, 2**32))
    assert memory.needs(Launch("m", quantization=quantization), entry) > 0
    assert memory.needs(Launch("m", device="cuda", quantization=quantization), entry) == 0


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_cpu_holds_quantized_models_in_less(quantization: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "has_kernels", lambda: True)
    entry = Catalogue.read().find("smollm2-instruct", "1.7")
    quantized = Launch("m", device="cpu", quantization=quantization)
    none, exact = (memory.needs(Launch("m", device="cpu", dtype=dtype), entry) for dtype in (None, "float32"))
    assert 0 < memory.needs(quantized, entry) < 0.7 * none < 0.7 * exact
    assert memory.needs(replace(quantized, dtype="float32"), entry) == memory.needs(quantized, entry)


@pytest.mark.parametrize(
    ("kernels", "dtype", "width"),
    [(True, None, 2), (True, "auto", 2), (True, "float32", 4), (False, None, 4), (False, "auto", 4), (False, "bfloat16", 2)],
)
def test_weights_are_as_wide_as_the_runtime_keeps_them(kernels: bool, dtype: str | None, width: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "has_kernels", lambda: kernels)
    entry = Entry("m", "1", "org/m", None, parameters=10**9, context=4096, kv_elements=100)
    launch = Launch("m", device="cpu", dtype=dtype, max_model_len=1000)
    assert memory.needs(launch, entry) - memory.OVERHEAD == width * (10**9 + 1000 * 100)


@pytest.mark.parametrize(("wanted", "device"), [(1, "cuda"), ("auto", "auto")])
def test_a_quantized_model_is_put_on_a_gpu(local: Local, wanted: object, device: str):
    body = ENGINE | {"model_uid": "small", "model_name": "smollm2-instruct", "model_size_in_billions": "0_135", "quantization": "int8"}
    launched = httpx.post(f"{local.url}/v1/models", json=body | {"n_gpu": wanted}, timeout=60)
    try:
        assert launched.status_code == 200, launched.text
        (pid,) = local.runtimes()
        args = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        assert [args[args.index(flag) + 1] for flag in ("--quantization", "--device")] == ["int8", device]
    finally:
        httpx.delete(f"{local.url}/v1/models/small", timeout=60)


def test_a_custom_model_on_a_hub_is_as_large_as_its_family_says(local: Local):
    spec = {"model_format": "pytorch", "quantization": "none", "model_id": "org/mine"}
    specs = [spec | {"model_size_in_billions": size} for size in (500, "0_1")]
    family = json.dumps({"model_name": "mine", "model_specs": specs})
    assert httpx.post(f"{local.url}/v1/model_registrations/LLM", json={"model": family}).status_code == 200
    assert "mine 500 needs 931.9 GiB" in refused(local, model_name="mine", model_size_in_billions=500, torch_dtype="bfloat16")
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
    monkeypatch.setattr(memory, "has_kernels", lambda: True)
    try:
        assert (await backend.fit(launch)).verdict is Verdict.FITS
        await backend.launch(launch)
        second = await backend.fit(launch)
        assert (second.verdict, "models that are loading will take 1." in second.message) == (Verdict.FITS, True)
        monkeypatch.setattr(memory, "available", lambda: 3 * memory.GIB // 2)
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
