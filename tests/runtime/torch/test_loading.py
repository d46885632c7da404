"""What is refused at load, in one sentence, and what errors become."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from jitney_runtime.errors import DiskFull, GPUOutOfMemory, ModelNotFound, NotSupportedYet, OutOfMemory
from jitney_runtime.progress import Progress
from jitney_runtime.settings import RuntimeSettings
from jitney_runtime.torch_backend import attention, hub, loading
from jitney_runtime.torch_backend.runner import TorchRunner

attention.register()


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_a_model_that_ignores_the_attention_interface_is_refused(kind: str):
    """Bloom claims nothing and ignores it; Mamba has no attention. Served in silence, both would answer wrongly."""
    config = AutoConfig.for_model(kind, vocab_size=100, hidden_size=32, n_head=2, n_layer=2, num_hidden_layers=2)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with pytest.raises((NotSupportedYet, TypeError)):
        TorchRunner(model, torch.device("cpu"), torch.float32, 8)


@pytest.mark.parametrize(
    ("raised", "becomes"),
    [
        (MemoryError(), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), OutOfMemory),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB free."), GPUOutOfMemory),
    ],
)
def test_running_out_of_memory_while_loading(raised: Exception, becomes: type[Exception], monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: object) -> None:
        raise raised

    monkeypatch.setattr(loading, "_load", fail)
    with pytest.raises(becomes, match="maxNumSeqs"):
        loading.load(RuntimeSettings("m", "m"), Progress())


def test_a_full_disk_while_downloading(monkeypatch: pytest.MonkeyPatch):
    def fail(*arguments: object, **options: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(DiskFull, match="give the cache more room"):
        hub.model_folder("org/name", None, Progress())


@pytest.mark.parametrize(
    ("name", "said"), [("a/b/c", "neither a folder"), ("https://x", "neither a folder"), ("just-a-name", "neither a folder")]
)
def test_a_name_that_is_no_repository(name: str, said: str):
    with pytest.raises(ModelNotFound, match=said):
        hub.model_folder(name, None, Progress())


def test_a_folder_without_a_model(tmp_path: Path):
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        hub.model_folder(str(tmp_path), None, Progress())
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NotSupportedYet, match="safetensors"):
        hub.model_folder(str(tmp_path), None, Progress())


def test_quantization_comes_later():
    with pytest.raises(NotSupportedYet, match="int8"):
        loading.load(RuntimeSettings("m", "m", quantization="int8"), Progress())


class TestContextWindow:
    config = LlamaConfig(max_position_embeddings=512)

    def test_is_the_models_own(self):
        assert loading.context_window(None, self.config) == 512

    def test_may_be_less(self):
        assert loading.context_window(100, self.config) == 100

    def test_may_not_be_more(self):
        with pytest.raises(NotSupportedYet, match="more than the 512 tokens"):
            loading.context_window(513, self.config)

    def test_stops_where_frequencies_would_depend_on_neighbours(self):
        rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 128}
        assert loading.context_window(None, LlamaConfig(max_position_embeddings=512, rope_parameters=rope)) == 128
