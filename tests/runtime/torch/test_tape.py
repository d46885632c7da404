"""Recorded steps: they replace the model's Python, answer the same, and where they cannot, nobody notices."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from jitney_runtime.engine.model_runner import ScheduledBatch, ScheduledRow
from jitney_runtime.engine.sequence import SamplingParams
from jitney_runtime.torch_backend import attention, cpu_kernels, fusions, linears, recording, tape
from jitney_runtime.torch_backend.cpu_model import use_kernels
from jitney_runtime.torch_backend.linears import NativeLinear, Precision
from jitney_runtime.torch_backend.runner import TorchRunner
from support.models import tiny_model

attention.register()
BLOCK = 8
PARAMS = SamplingParams(max_tokens=1)


def runner_for(
    kind: str, kernel: str = "native", spoil: bool = False, precision: Precision = Precision.FLOAT32, tokens: int = 512, **shape: Any
) -> TorchRunner:
    model = tiny_model(kind, attention.NAME, **shape)
    use_kernels(model, kernel, precision)
    if spoil:
        model.get_submodule("model.layers.1.self_attn.o_proj").register_forward_hook(lambda module, inputs, output: output * 1.0)
    with torch.inference_mode():
        runner = TorchRunner(model, torch.device("cpu"), torch.float32, BLOCK, kernel)
        runner.allocate(64, tokens=tokens)
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


def mixed(decoding: int, lengths: tuple[int, ...], start: int, shift: int = 0) -> ScheduledBatch:
    """So many rows as above at their token `start`, and prompts' chunks of these lengths from there on, in blocks of their own."""
    chunks = []
    for number, length in enumerate(lengths):
        ids = tuple((11 * number + 5 * at + shift) % 300 for at in range(length))
        blocks = tuple(range(20 + 8 * number, 28 + 8 * number))
        chunks.append(ScheduledRow(f"p{number}", ids, start, blocks, number % 2 == 0, PARAMS, 0))
    return ScheduledBatch((*decode(decoding, start, shift).rows, *chunks))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
def test_after_three_steps_the_models_python_is_not_run_again(kind: str):
    """Whatever their rows are."""
    runner = runner_for(kind)
    runs = layer_runs(runner)
    for at in range(3):
        logits(runner, decode(1, at))
    assert len(runs) == 3, "of one token nothing can be learned"
    for at in range(3):
        logits(runner, decode(3, at))
    assert len(runs) == 6, "nor twice of the same number"
    logits(runner, decode(2, 0))
    assert len(runs) == 7
    for at in range(4):
        logits(runner, decode(1 + at, at))
        logits(runner, mixed(at, (5, 3 + at), at))
    assert len(runs) == 9, "two steps record, one proves, and one that has many more tokens"


def test_a_step_says_how_far_its_blocks_reach():
    """So that pages are taken ahead of them; blocks of before its new tokens were said by other steps."""
    runner = runner_for("llama")
    pages, reached = runner.attention.pages, []
    assert pages is not None
    pages.filled, pages.reach = False, reached.append  # type: ignore[method-assign]
    logits(runner, decode(3, 0))
    logits(runner, mixed(2, (5, 20), 0))
    row = ScheduledRow("long", (1,), BLOCK, (40, 7), True, PARAMS, 0)
    logits(runner, ScheduledBatch((row,)))
    pages.filled = True
    logits(runner, decode(3, 1))
    assert reached == [2, 35, 7]


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
def test_replayed_steps_are_bitwise_the_models_own(kind: str, precision: Precision, monkeypatch: pytest.MonkeyPatch):
    """Numbers of rows that change from step to step share memory; a runner that never records says what is right."""
    # Both with the same kernel, whatever the clock would say.
    monkeypatch.setattr(linears, "_seconds", lambda candidates, *rest: {made: place for place, made in enumerate(candidates)})
    recorded, plain = (runner_for(kind, precision=precision) for _ in range(2))
    # Its layers stay in their recorded shells, which do nothing unless a step begins.
    plain._shortcut = None
    runs = layer_runs(recorded)
    steps = [(at, 1 + at * 5 % 4) for at in range(BLOCK)] * 4
    for number, (at, rows) in enumerate(steps):
        chunks = ((), (3 + number % 5,), (2, 9), (1, 40))[number % 4]
        for batch in (decode(rows, at, shift=number), mixed(rows if number % 3 else 0, chunks, at, shift=number)):
            if batch.rows:
                assert torch.equal(logits(recorded, batch), logits(plain, batch))
    assert len(runs) <= 3 + 5, "the first has one token; numbers up to 45 are five times more than twice as many"


def test_a_step_of_more_tokens_than_there_is_room_for_runs_the_models_python():
    runner, right = runner_for("llama", tokens=20), runner_for("llama", tokens=20)
    right._shortcut = None
    runs = layer_runs(runner)
    for length in (3, 4, 5, 20, 21, 30, 6):
        assert torch.equal(logits(runner, mixed(0, (length,), 0)), logits(right, mixed(0, (length,), 0)))
    assert len(runs) == 4 + 2


def test_a_model_that_computes_something_else_is_not_recorded(caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    runner, spoiled = runner_for("llama"), runner_for("llama", spoil=True)
    for at in range(4):
        assert torch.equal(logits(runner, decode(3 + at, at)), logits(spoiled, decode(3 + at, at)))
    assert "not recorded for this model: it computes aten.mul.Tensor" in caplog.text
    assert spoiled._shortcut is not None
    assert not spoiled._shortcut.recordings._possible


def test_a_replay_that_differs_is_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """A kernel that is not recorded: what it wrote in the recorded step stays, and the next step shows it."""
    caplog.set_level(logging.INFO)
    runner, right = runner_for("llama"), runner_for("llama")
    call = recording.Tape.call

    def forget(self: Any, kernel: str, *arguments: Any) -> None:
        if kernel != "silu_mul":
            call(self, kernel, *arguments)

    monkeypatch.setattr(recording.Tape, "call", forget)
    found = [logits(runner, decode(3 + at, at)) for at in range(5)]
    monkeypatch.undo()
    assert all(torch.equal(one, logits(right, decode(3 + at, at))) for at, one in enumerate(found))
    assert "a replayed step differs from the model's own" in caplog.text


def test_a_step_that_fails_while_it_is_recorded_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch):
    runner, right = runner_for("llama"), runner_for("llama")
    forward = fusions.GatedMLP.forward
    monkeypatch.setattr(fusions.GatedMLP, "forward", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        logits(runner, decode(3, 0))
    monkeypatch.setattr(fusions.GatedMLP, "forward", forward)
    for at in range(4):
        assert torch.equal(logits(runner, decode(3 + at, at)), logits(right, decode(3 + at, at)))
    assert runner._shortcut is not None
    assert runner._shortcut.recordings._steps is not None
    assert runner._shortcut.recordings._steps.proven


def test_steps_that_differ_in_more_than_their_tokens_are_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """A model that computes something else from a certain number of tokens on."""
    caplog.set_level(logging.INFO)
    runner, right = runner_for("llama"), runner_for("llama")
    forward = fusions.GatedMLP.forward

    def twice(self: fusions.GatedMLP, hidden: torch.Tensor) -> torch.Tensor:
        return forward(self, forward(self, hidden) if hidden.shape[1] > 2 else hidden)

    monkeypatch.setattr(fusions.GatedMLP, "forward", twice)
    right._shortcut = None
    for at in range(5):
        assert torch.equal(logits(runner, decode(2 + at, at)), logits(right, decode(2 + at, at)))
    assert "two steps differ in more than their numbers of tokens" in caplog.text


def two_tapes(**other: Any) -> tuple[recording.Memory, recording.Tape, recording.Tape]:
    """Recordings of two and of three tokens that are alike but for what `other` says of the second."""
    memory = recording.Memory(8)
    made = []
    for tokens, more in ((2, {}), (3, other)):
        one = recording.Tape(memory, tokens)
        said = {"kernel": "add", "pointers": (16, 32, 48), "numbers": (tokens * 16,), "floats": ()} | more
        one.call(said["kernel"], said["pointers"], said["numbers"], said["floats"])
        one.inputs, one.output = [(1, tokens, 16)], (0, (1, tokens, 16))
        made.append(one)
    return memory, made[0], made[1]


@pytest.mark.parametrize(
    "other", [{"kernel": "silu_mul"}, {"pointers": (16, 32, 64)}, {"floats": (1.0,)}, {"numbers": (50,)}, {"numbers": (33,)}]
)
def test_what_is_no_multiple_of_the_tokens_is_no_step_of_any_number(other: dict[str, Any]):
    assert recording.Steps(*two_tapes()) is not None
    with pytest.raises(recording.Unlike):
        recording.Steps(*two_tapes(**other))


def test_a_step_that_gives_something_else_is_not_replayed():
    steps = recording.Steps(*two_tapes())
    assert steps.fits([torch.empty(1, 5, 16)], 5)
    assert not steps.fits([torch.empty(1, 4, 16)], 5)
    assert not steps.fits([torch.empty(1, 5, 32)], 5)
    assert not steps.fits([torch.empty(1, 5, 16), torch.empty(1, 5, 16)], 5)


def test_models_whose_parts_are_not_ours_keep_their_own_way():
    """Gemma's MLP is another one: what can be fused is, and its steps are the model's own."""
    runner = runner_for("gemma3_text")
    for at in range(3):
        logits(runner, decode(3 + at, at))
    assert runner._shortcut is None or runner._shortcut.recordings._steps is None


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

    recordings = tape.Recordings(8, [])
    layers = [tape.RecordedLayer(recordings, Layer(), place, place == 2) for place in range(3)]

    def run(hidden: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        recordings.begin(hidden.shape[1])
        try:
            for place, layer in enumerate(layers):
                hidden = layer(hidden, second if place == 1 and other == "input" else first)
                hidden = hidden + hidden if place == 0 and other == "between" else hidden
            return hidden.clone()
        finally:
            recordings.end()

    with torch.inference_mode():
        for number in range(4):
            start, first, second = (torch.full((1, 2 + number, 16), float(number + add)) for add in (1, 2, 3))
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
