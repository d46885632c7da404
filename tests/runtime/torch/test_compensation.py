"""int4 with what rounding one weight loses made up for by others: on the kernel's own grid, and better for the inputs that come."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from transformers import AutoTokenizer

from jitney_runtime.torch_backend import attention, compensation, cpu_kernels, cpu_model, fusions
from jitney_runtime.torch_backend.compensation import GROUP, TOP, calibration, compensate, compensate_linears, hessian
from jitney_runtime.torch_backend.cpu_kernels import Format
from jitney_runtime.torch_backend.linears import Int4Linear, Int8Linear, NativeLinear, Precision
from support.models import smollm2_folder, tiny_model

attention.register()
TOKENS = torch.arange(4 * 24).view(4, 24) * 7 % 300


def correlated(rows: int, ins: int, seed: int = 0) -> torch.Tensor:
    """Inputs as a model has them: some directions matter far more than others."""
    dice = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, ins, generator=dice) * torch.logspace(1, -1, ins)
    return mixed @ torch.randn(ins, ins, generator=dice) / ins**0.5


def plain(weight: torch.Tensor) -> torch.Tensor:
    """Between the least and the largest of each group, as pack() has it."""
    groups = nn.functional.pad(weight, (0, -weight.shape[1] % GROUP)).view(len(weight), -1, GROUP)
    low = groups.amin(-1, keepdim=True).bfloat16().float()
    scale = ((groups.amax(-1, keepdim=True) - low) / TOP).bfloat16().float().clamp(min=1e-30)
    return (((groups - low) / scale).round().clamp(0, TOP) * scale + low).flatten(1)[:, : weight.shape[1]]


@pytest.mark.parametrize(("outs", "ins"), [(48, 64), (100, 576), (1500, 96)])
def test_the_answers_to_such_inputs_are_closer_than_by_plain_rounding(outs: int, ins: int):
    weight, inputs = torch.randn(outs, ins, generator=torch.Generator().manual_seed(1)), correlated(400, ins)
    wanted = linear(inputs, weight)
    lost = [float((linear(inputs, rounded) - wanted).norm()) for rounded in (plain(weight), compensate(weight, hessian(inputs)))]
    assert lost[1] < 0.7 * lost[0]


@pytest.mark.skipif(not cpu_kernels.available() or not cpu_kernels.has(Format.INT4), reason="this CPU has no int4 kernel")
@pytest.mark.parametrize(("outs", "ins"), [(48, 64), (96, 100), (64, 576)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_kernel_keeps_them_as_they_are(outs: int, ins: int, dtype: torch.dtype):
    """Its own rounding of weights that lie on its grid is none; in bfloat16 a group's width may be off by a thousandth."""
    weight = torch.randn(outs, ins, generator=torch.Generator().manual_seed(2))
    made = compensate(weight, hessian(correlated(300, ins)))
    inputs = correlated(16, ins, seed=3)
    source = nn.Linear(ins, outs, bias=False)
    source.weight = nn.Parameter(made.to(dtype), requires_grad=False)
    # What the kernel does to its inputs is done to those of the other as well: rounding the inputs is no matter of the weights.
    exact, found = linear(inputs, made), Int4Linear(source)(inputs)
    other = nn.Linear(ins, outs, bias=False)
    other.weight = nn.Parameter(weight, requires_grad=False)
    rounded = Int4Linear(other)(inputs) - linear(inputs, weight)
    assert float((found - exact).norm()) < 0.25 * float(rounded.norm())


def test_a_group_of_equal_weights_and_inputs_that_are_never_there():
    weight = torch.cat([torch.full((4, 32), 0.5), torch.randn(4, 32, generator=torch.Generator().manual_seed(0))], dim=1)
    inputs = correlated(50, 64)
    inputs[:, 40:] = 0
    made = compensate(weight, hessian(inputs))
    assert made.isfinite().all()
    assert torch.equal(made[:, :32], weight[:, :32])
    assert compensate(weight, torch.zeros(64, 64)).isfinite().all()


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3_text"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_layer_of_a_model_is_done_but_those_set_apart(kind: str, dtype: torch.dtype):
    model = tiny_model(kind, attention.NAME)
    if dtype is torch.bfloat16:
        model.bfloat16()
        cpu_model._widen(model)
    before = {name: layer.weight.clone() for name, layer in linears(model).items()}
    apart = {id(layer) for name, layer in linears(model).items() if name.endswith("v_proj") or name == "lm_head"}
    heard: list[tuple[int, int]] = []
    compensate_linears(model, TOKENS, frozenset(apart), lambda *counts: heard.append(counts))
    assert model.config._attn_implementation == attention.NAME
    done = len(before) - len(apart)
    assert heard == [(number, done) for number in range(1, done + 1)]
    for name, layer in linears(model).items():
        assert layer.weight.dtype is before[name].dtype
        assert torch.equal(layer.weight, before[name]) == (id(layer) in apart)
        assert len(layer._forward_hooks) == len(layer._forward_pre_hooks) == 0


def test_what_is_done_is_packed_before_the_next_computes():
    """One decoder layer at a time is there in full; and what the checkpoint holds of others is left where it is."""
    model = tiny_model("qwen2", attention.NAME).bfloat16()
    cpu_model._widen(model)
    left = {name: layer.weight.data_ptr() for name, layer in linears(model).items()}
    apart = frozenset(id(layer) for name, layer in linears(model).items() if name.endswith("down_proj"))
    changed: list[int] = []

    def done(layer: nn.Module) -> None:
        now = {name: layer.weight.data_ptr() for name, layer in linears(model).items()}
        changed.append(sum(now[name] != left[name] for name in now))

    compensate_linears(model, TOKENS, apart, lambda *counts: None, done)
    assert changed == [6, 12, 18], "all of a layer but its down projection"


def test_a_model_that_fails_on_the_text_is_rounded_plainly(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    model = tiny_model("llama", attention.NAME).bfloat16()
    cpu_model._widen(model)
    monkeypatch.setattr(model.get_submodule("model.layers.1.mlp"), "forward", lambda hidden: 1 / 0)
    compensate_linears(model, TOKENS, frozenset(), lambda *counts: None)
    assert "not compensated for beyond 11 of 21 layers" in caplog.text
    assert {layer.weight.dtype for layer in linears(model).values()} == {torch.bfloat16}


@pytest.mark.skipif(not cpu_kernels.available() or not cpu_kernels.has(Format.INT4), reason="this CPU has no int4 kernel")
def test_a_small_model_keeps_its_delicate_layers_in_int8(monkeypatch: pytest.MonkeyPatch):
    """And a large one none."""
    for small in (True, False):
        monkeypatch.setattr(cpu_model, "SMALL", 10**9 if small else 10)
        model = tiny_model("llama", attention.NAME)
        cpu_model.use_kernels(model, "native", Precision.INT4, lambda: TOKENS)
        kinds = {name: type(layer) for name, layer in model.named_modules() if isinstance(layer, NativeLinear)}
        wide = {name.rpartition(".")[2] for name, kind in kinds.items() if kind is Int8Linear}
        # The kernels' GatedMLP holds its down projection by that name.
        assert wide == ({"v_proj", "o_proj", "down", "lm_head"} if small else {"lm_head"})
        shared = model.get_submodule("model.layers.0.self_attn.q_proj")
        assert isinstance(shared, fusions.SharedLinear)
        assert len(shared._shared._sizes) == (2 if small else 3)


def test_a_layer_that_is_called_twice_is_done_once():
    model = tiny_model("llama", attention.NAME)
    first, second = (model.get_submodule(f"model.layers.{number}") for number in (0, 1))
    second.mlp = first.mlp
    heard: list[tuple[int, int]] = []
    compensate_linears(model, TOKENS, frozenset(), lambda *counts: heard.append(counts))
    assert heard[-1] == (18, 18)


def test_a_model_whose_scores_cannot_be_left_out_is_rounded_plainly(caplog: pytest.LogCaptureFixture):
    model = tiny_model("llama", attention.NAME)
    base = model.base_model
    before = {name: layer.weight.clone() for name, layer in linears(base).items()}
    compensate_linears(base, TOKENS, frozenset(), lambda *counts: None)
    assert "not compensated for: the model's scores cannot be left out" in caplog.text
    assert all(torch.equal(layer.weight, before[name]) for name, layer in linears(base).items())


def test_the_text_is_cut_to_the_models_window():
    class Words:
        def encode(self, text: str) -> list[Any]:
            assert len(text) > 15_000
            return list(range(4500))

    assert calibration(Words(), 8192).shape == (8, 512)
    assert calibration(Words(), 200).shape == (20, 200)
    assert calibration(Words(), 200)[1, 0] == 200


def test_the_real_models_tokens_are_enough():
    assert calibration(AutoTokenizer.from_pretrained(smollm2_folder()), 8192).numel() == compensation._TOKENS
