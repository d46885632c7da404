"""Recorded decode steps: they replace the model's Python, answer the same, and where they cannot, nobody notices."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from jitney_runtime.engine.model_runner import ScheduledBatch, ScheduledRow
from jitney_runtime.engine.sequence import SamplingParams
from jitney_runtime.torch_backend import attention, cpu_kernels, fusions, linears, tape
from jitney_runtime.torch_backend.cpu_model import use_kernels
from jitney_runtime.torch_backend.linears import NativeLinear, Precision
from jitney_runtime.torch_backend.runner import TorchRunner
from support.models import tiny_model

attention.register()
BLOCK = 8
PARAMS = SamplingParams(max_tokens=1)


def runner_for(kind: str, kernel: str = "native", spoil: bool = False, precision: Precision = Precision.FLOAT32) -> TorchRunner:
    model = tiny_model(kind, attention.NAME)
    use_kernels(model, kernel, precision)
    if spoil:
        model.get_submodule("model.layers.1.self_attn.o_proj").register_forward_hook(lambda module, inputs, output: output * 1.0)
    with torch.inference_mode():
        runner = TorchRunner(model, torch.device("cpu"), torch.float32, BLOCK, kernel)
        runner.allocate(64)
    return runner


def decode(rows: int, at: int, shift: int = 0) -> ScheduledBatch:
    """Row `number` decodes its token number `at`, in block `number`."""
    return ScheduledBatch(tuple(ScheduledRow(f"s{n}", ((7 * n + 3 * at + shift) % 300,), at, (n,), True, PARAMS, 0) for n in range(rows)))


def layer_runs(runner: TorchRunner) -> list[str]:
    """Grows by one whenever the Python of the first decoder layer runs."""
    runs: list[str] = []
    layer = runner.model.get_submodule("model.layers.0.layer")
    layer.register_forward_pre_hook(lambda module, inputs: runs.append("run"))
    return runs


def logits(runner: TorchRunner, batch: ScheduledBatch) -> torch.Tensor:
    with torch.inference_mode():
        return runner.forward(batch).clone()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
def test_after_two_steps_the_models_python_is_not_run_again(kind: str):
    runner = runner_for(kind)
    runs = layer_runs(runner)
    for at in range(6):
        logits(runner, decode(3, at))
    assert len(runs) == 2, "one step records, one proves"
    logits(runner, decode(2, 6))
    assert len(runs) == 3, "another number of rows is another tape"


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
def test_replayed_steps_are_bitwise_the_models_own(kind: str, precision: Precision, monkeypatch: pytest.MonkeyPatch):
    """Numbers of rows that change from step to step share memory; a runner that never records says what is right."""
    # Both with the same kernel, whatever the clock would say.
    monkeypatch.setattr(linears, "_seconds", lambda candidates, *rest: {made: place for place, made in enumerate(candidates)})
    recorded, plain = (runner_for(kind, precision=precision) for _ in range(2))
    # Its layers stay in their recorded shells, which do nothing unless a step begins.
    plain._recordings = None
    runs = layer_runs(recorded)
    steps = [(at, 1 + at * 5 % 4) for at in range(BLOCK)] * 4
    for number, (at, rows) in enumerate(steps):
        batch = decode(rows, at, shift=number)
        assert torch.equal(logits(recorded, batch), logits(plain, batch))
    assert len(runs) < len(steps) / 2


def test_steps_with_a_prompt_run_the_models_python():
    runner = runner_for("llama")
    runs = layer_runs(runner)
    prompt = ScheduledRow("p", (1, 2, 3), 0, (40,), True, PARAMS, 0)
    for _ in range(3):
        logits(runner, ScheduledBatch((prompt, *decode(2, 0).rows)))
    assert len(runs) == 3


def test_a_model_that_computes_something_else_is_not_recorded(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    runner, spoiled = runner_for("llama"), runner_for("llama", spoil=True)
    for at in range(4):
        assert torch.equal(logits(runner, decode(3, at)), logits(spoiled, decode(3, at)))
    assert "not recorded for this model: it computes aten.mul.Tensor" in caplog.text
    assert spoiled._recordings is not None
    assert not spoiled._recordings._tapes


def test_a_replay_that_differs_is_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """A kernel that is not recorded: what it wrote in the recorded step stays, and the next step shows it."""
    caplog.set_level(logging.INFO)
    runner, right = runner_for("llama"), runner_for("llama")
    call = tape.Tape.call

    def forget(self: Any, kernel: str, *arguments: Any) -> None:
        if kernel != "silu_mul":
            call(self, kernel, *arguments)

    monkeypatch.setattr(tape.Tape, "call", forget)
    found = [logits(runner, decode(3, at)) for at in range(5)]
    monkeypatch.undo()
    assert all(torch.equal(one, logits(right, decode(3, at))) for at, one in enumerate(found))
    assert "a replayed step differs from the model's own" in caplog.text


def test_a_step_that_fails_while_it_is_recorded_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch):
    runner, right = runner_for("llama"), runner_for("llama")
    forward = fusions.GatedMLP.forward
    monkeypatch.setattr(fusions.GatedMLP, "forward", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        logits(runner, decode(3, 0))
    monkeypatch.setattr(fusions.GatedMLP, "forward", forward)
    for at in range(4):
        assert torch.equal(logits(runner, decode(3, at)), logits(right, decode(3, at)))


def test_models_whose_parts_are_not_ours_keep_their_own_way():
    """Gemma's MLP is another one: what can be fused is, and its steps are the model's own."""
    runner = runner_for("gemma3_text")
    for at in range(3):
        logits(runner, decode(3, at))
    assert runner._recordings is None or not runner._recordings._tapes


def test_fusing_leaves_alone_what_only_looks_alike():
    model = tiny_model("llama", attention.NAME)
    model.get_submodule("model.layers.0.input_layernorm").register_forward_hook(lambda module, inputs, output: output + 1)
    use_kernels(model, "native")
    assert not isinstance(model.get_submodule("model.layers.0.input_layernorm"), fusions.RMSNorm)
    assert isinstance(model.get_submodule("model.layers.1.input_layernorm"), fusions.RMSNorm)


@pytest.mark.parametrize("change", ["epsilon", "weight"])
def test_a_norm_that_hides_what_it_computes_keeps_its_own_code(change: str, monkeypatch: pytest.MonkeyPatch):
    """Its attributes say one thing and its code does another."""
    norm = tiny_model("llama", attention.NAME).get_submodule("model.layers.0.input_layernorm")
    assert fusions._norm(norm) is not None
    if change == "epsilon":
        norm.variance_epsilon *= 2
        own = norm.variance_epsilon / 2
        monkeypatch.setattr(norm, "forward", lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + own) * norm.weight)
    else:
        monkeypatch.setattr(norm, "forward", lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * norm.weight * 1.001)
    assert fusions._norm(norm) is None


@pytest.mark.parametrize("other", ["between", "input"])
def test_what_a_replay_would_not_know_is_not_recorded(other: str):
    """An addition between two layers, and a rope set that only a later layer reads: both pass for our own kernels' work."""

    class Layer(torch.nn.Module):
        def forward(self, hidden: torch.Tensor, extra: torch.Tensor) -> torch.Tensor:
            return cpu_kernels.add(hidden, extra)

    recordings = tape.Recordings(4)
    layers = [tape.RecordedLayer(recordings, Layer(), place, place == 2) for place in range(3)]

    def run(hidden: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        recordings.begin(1)
        try:
            for place, layer in enumerate(layers):
                hidden = layer(hidden, second if place == 1 and other == "input" else first)
                hidden = hidden + hidden if place == 0 and other == "between" else hidden
            return hidden.clone()
        finally:
            recordings.end()

    with torch.inference_mode():
        for number in range(4):
            start, first, second = (torch.full((1, 1, 16), float(number + add)) for add in (1, 2, 3))
            wanted = start + first
            wanted = wanted + wanted if other == "between" else wanted
            assert torch.equal(run(start, first, second), wanted + (second if other == "input" else first) + first)
    assert not recordings._possible


def test_a_clamp_that_only_large_values_meet_is_not_fused_away(monkeypatch: pytest.MonkeyPatch):
    mlp = tiny_model("llama", attention.NAME).get_submodule("model.layers.0.mlp")
    assert fusions._mlp(mlp, NativeLinear) is not None
    silu = torch.nn.functional.silu
    clamped = lambda x: mlp.down_proj(silu(mlp.gate_proj(x).clamp(max=50)) * mlp.up_proj(x).clamp(-50, 50))  # noqa: E731
    monkeypatch.setattr(mlp, "forward", clamped)
    assert fusions._mlp(mlp, NativeLinear) is None


def test_outside_the_engine_a_modeling_file_is_as_it_was():
    """The rotary function is replaced in the file that all models of the class share."""
    use_kernels(tiny_model("llama", attention.NAME), "native")
    reference = tiny_model("llama", "sdpa")
    ids = torch.arange(20)[None]
    with torch.no_grad():
        patched = reference(ids).logits
        from transformers.models.llama import modeling_llama

        replacement = modeling_llama.apply_rotary_pos_emb
        assert isinstance(replacement, fusions.Rotary)
        modeling_llama.apply_rotary_pos_emb = replacement.original
        try:
            assert torch.equal(patched, reference(ids).logits)
        finally:
            modeling_llama.apply_rotary_pos_emb = replacement
