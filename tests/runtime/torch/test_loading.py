"""What is refused at load, in one sentence, and what errors become. Real folders and files; the process's exit codes are in test_start."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from jitney_runtime.errors import GPUOutOfMemory, ModelDamaged, ModelNotFound, NotSupportedYet, StartError
from jitney_runtime.progress import Progress
from jitney_runtime.settings import RuntimeSettings
from jitney_runtime.torch_backend import checkpoint, hub, loading
from support.models import save_tiny

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("whole"))


def load(folder: Path, **settings: Any) -> loading.LoadedModel:
    return loading.load(RuntimeSettings(str(folder), "m", device="cpu", kernel="plain", **settings), Progress())


def test_a_whole_folder_loads(whole: Path):
    loaded = load(whole)
    assert loaded.scheduler.max_model_len == 256
    assert loaded.runner.vocabulary == 300
    assert loaded.scheduler.eos_tokens == {loaded.tokenizer.eos_token_id}


def test_it_tells_how_far_it_is(monkeypatch: pytest.MonkeyPatch):
    """By tensors, as transformers goes through them: the bar itself counts them, and nobody says how many there are."""
    told: list[int] = []
    monkeypatch.setattr(Progress, "loading", lambda _, percent=None: told.append(percent))
    bar = checkpoint._loading_bar(Progress())(tqdm, (range(8),), {"mininterval": 0, "miniters": 1, "file": io.StringIO()})
    assert list(bar) == list(range(8))
    assert told == [12, 25, 37, 50, 62, 75, 87, 100]


def rewritten(**fields: Any) -> Callable[[Path], None]:
    """config.json with other fields."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return change


def cut_off(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1000])


def flipped_header(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[8:20] = b"\xff" * 12
    (folder / WEIGHTS).write_bytes(content)


def git_lfs_pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1234\n")


def one_tensor_less(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def one_shard_less(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def written(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut_off, "the weights of .* cannot be loaded: .* a file is damaged, copy or download it again"),
        (flipped_header, "a file is damaged"),
        (git_lfs_pointer, "a file is damaged"),
        (written(WEIGHTS, b""), "a file is damaged"),
        (one_tensor_less, r"lacks 1 of its weights, model\.layers\.1\.mlp\.up_proj\.weight for one: copy or download it again"),
        (one_shard_less, r"No such file .*model-00002-of-00002\.safetensors.*; a file is missing, copy or download it again"),
        (rewritten(intermediate_size=100), r"do not fit its config\.json: model\.layers\.0\.mlp\.down_proj\.weight is \[64, 96\]"),
        (written("config.json", b"{oops"), r"cannot read the config\.json of .*: config\.json is damaged, copy or download it again"),
        (written("config.json", b"\xff\xfe\x00"), r"config\.json is damaged"),
        (written("tokenizer.json", b"{"), r"the tokenizer of .* cannot be loaded: tokenizer\.json is damaged"),
        (no_tokenizer, r"holds no tokenizer: put its tokenizer\.json beside the weights"),
    ],
)
def test_a_folder_that_is_not_whole_is_one_sentence(whole: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str):
    _refused(ModelDamaged, whole, tmp_path, spoil, said)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (written("config.json", b"[]"), r"cannot read the config\.json"),
        (written("config.json", b"{}"), r"cannot read the config\.json of .*: Unrecognized model"),
        (rewritten(model_type="quux"), "`quux`"),
        (rewritten(hidden_size="big"), "'hidden_size' expected int, got str"),
    ],
)
def test_a_config_that_nobody_knows_is_one_sentence(whole: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str):
    _refused(NotSupportedYet, whole, tmp_path, spoil, said)


def _refused(kind: type[StartError], whole: Path, tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    spoil(folder)
    with pytest.raises(kind, match=said) as refused:
        load(folder)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_a_model_that_ignores_the_attention_interface_is_refused(kind: str, whole: Path, tmp_path: Path):
    """Bloom claims nothing and ignores it; Mamba has no attention. Served in silence, both would answer wrongly."""
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    config = AutoConfig.for_model(kind, vocab_size=100, hidden_size=32, n_head=2, n_layer=2, num_hidden_layers=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with pytest.raises(NotSupportedYet, match="2 layers and 0 of them use transformers' attention interface"):
        load(folder)


CODE = """
from transformers import Qwen2Config, Qwen2ForCausalLM

class OwnConfig(Qwen2Config):
    model_type = "own"

class OwnForCausalLM(Qwen2ForCausalLM):
    config_class = OwnConfig
"""


def test_code_that_a_model_brings_runs_only_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = save_tiny(tmp_path / "model", vocab_size=49152)
    own = {"auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}, "model_type": "own"}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | own | {"architectures": ["OwnForCausalLM"]}))
    (folder / "own.py").write_text(CODE)
    with pytest.raises(NotSupportedYet, match=r"only be served by the code in its own repository: start with --trust-remote-code"):
        load(folder)
    assert type(load(folder, trust_remote_code=True).runner.model).__name__ == "OwnForCausalLM"


def test_layers_that_look_back_in_chunks_are_refused(whole: Path, tmp_path: Path):
    """Llama 4's go through the attention interface and would be served as if they saw everything."""
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    shape = {"hidden_size": 32, "intermediate_size": 32, "intermediate_size_mlp": 32, "num_local_experts": 2, "head_dim": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 100, "pad_token_id": 0}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("llama4_text", **shape, **heads)).save_pretrained(folder)
    with pytest.raises(NotSupportedYet, match="layers of the type chunked_attention"):
        load(folder)


def test_a_gpu_that_is_too_small(monkeypatch: pytest.MonkeyPatch):
    """Without a GPU the error itself is all there is of it; the main memory's is in test_start."""

    def fail(*arguments: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB free.")

    monkeypatch.setattr(loading, "_load", fail)
    with pytest.raises(GPUOutOfMemory, match=r"lower maxNumSeqs or maxModelLen, .*Tried to allocate 2\.00 GiB"):
        loading.load(RuntimeSettings("m", "m"), Progress())


@pytest.mark.parametrize("name", ["a/b/c", "https://x", "just-a-name", "hf://", "hf://a"])
def test_a_name_that_is_no_repository(name: str):
    with pytest.raises(ModelNotFound, match="neither a folder"):
        hub.model_folder(name, None, Progress())


def test_a_folder_without_a_model(tmp_path: Path):
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        hub.model_folder(str(tmp_path), None, Progress())
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(NotSupportedYet, match="safetensors"):
        hub.model_folder(str(tmp_path), None, Progress())


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
