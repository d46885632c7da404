"""Steps around the model's own Python: the same scores, bit by bit, and no model that is computed otherwise takes them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch

from jitney_runtime.engine.model_runner import ScheduledBatch
from jitney_runtime.torch_backend import linears, shortcut
from jitney_runtime.torch_backend.linears import Precision
from jitney_runtime.torch_backend.runner import TorchRunner

from .test_tape import BLOCK, decode, layer_runs, logits, mixed, runner_for


def passes(runner: TorchRunner) -> list[str]:
    """Grows by one whenever the model's own Python runs for a step."""
    runs: list[str] = []
    own = runner._shortcut._own  # type: ignore[union-attr]
    runner._shortcut._own = lambda plan: runs.append("run") or own(plan)  # type: ignore[union-attr, func-returns-value]
    return runs


def plain(kind: str, **shape: Any) -> TorchRunner:
    """One that never takes a shortcut: it says what is right."""
    runner = runner_for(kind, **shape)
    runner._shortcut = None
    return runner


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.BFLOAT16, Precision.INT4])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
def test_the_models_own_python_is_not_run_once_its_scores_were_compared(kind: str, precision: Precision, monkeypatch: pytest.MonkeyPatch):
    """Whatever the rows are, whoever of them is sampled, and beyond the positions that were known."""
    monkeypatch.setattr(shortcut, "_AHEAD", 3)
    # Both with the same kernel, whatever the clock would say.
    monkeypatch.setattr(linears, "_seconds", lambda candidates, *rest: {made: place for place, made in enumerate(candidates)})
    runner, right = runner_for(kind, precision=precision), plain(kind, precision=precision)
    runs = passes(runner)
    for at in range(5):
        assert torch.equal(logits(runner, mixed(2, (5, 20 + at), 0)), logits(right, mixed(2, (5, 20 + at), 0)))
    before = len(runs)
    for number in range(3 * BLOCK):
        at = number % BLOCK
        for batch in (decode(1 + number % 5, at, number), mixed(number % 3, (4, 2 + number), at, number), mixed(0, (1,), at, number)):
            assert torch.equal(logits(runner, batch), logits(right, batch))
    assert before <= 5
    assert len(runs) == before


@pytest.mark.parametrize("rope", [{"rope_type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 4.0}])
def test_positions_that_are_stretched_alike_are_looked_up(rope: dict[str, Any]):
    runner, right = (made("llama", rope_parameters={"rope_theta": 10000.0, **rope}) for made in (runner_for, plain))
    runs = passes(runner)
    for at in range(BLOCK):
        assert torch.equal(logits(runner, decode(3, at)), logits(right, decode(3, at)))
        assert torch.equal(logits(runner, decode(4, at)), logits(right, decode(4, at)))
    assert len(runs) < BLOCK


def test_positions_that_depend_on_the_neighbours_are_not_looked_up():
    """Dynamic scaling looks at the longest sequence of the step."""
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    runner, right = (made("llama", rope_parameters=rope, max_position_embeddings=16) for made in (runner_for, plain))
    runs = passes(runner)
    for length in (8, 9, 20, 30, 10, 40):
        assert torch.equal(logits(runner, mixed(2, (length,), 0)), logits(right, mixed(2, (length,), 0)))
    assert len(runs) == 6


def test_scores_that_are_changed_afterwards_are_the_models_own(caplog: pytest.LogCaptureFixture):
    """As Granite and Cohere divide them: the first comparison shows it, and the layers are replayed all the same."""
    caplog.set_level(logging.INFO)
    runner, right = runner_for("llama"), plain("llama")
    for made in (runner, right):
        made.model.register_forward_hook(lambda model, inputs, output: output.__class__(logits=output.logits / 3))
    layers = layer_runs(runner)
    for at in range(BLOCK):
        assert torch.equal(logits(runner, decode(3 + at % 2, at)), logits(right, decode(3 + at % 2, at)))
    assert "only the layers of this model are replayed: the scores differ" in caplog.text
    assert len(layers) < BLOCK


def test_a_step_without_scores_proves_nothing():
    """A long chunk of a prompt that samples nothing comes first."""
    runner, right = runner_for("llama"), plain("llama")
    for made in (runner, right):
        made.model.register_forward_hook(lambda model, inputs, output: output.__class__(logits=output.logits / 3))
    for length in range(20, 26):
        chunk = ScheduledBatch((replace(mixed(0, (length,), 0).rows[0], sample=False),))
        assert torch.equal(logits(runner, chunk), logits(right, chunk))
    assert runner._shortcut is not None
    assert not runner._shortcut.proven
    for at in range(BLOCK):
        assert torch.equal(logits(runner, decode(3 + at % 2, at)), logits(right, decode(3 + at % 2, at)))


@pytest.mark.parametrize("part", ["_short", "_look_up"])
def test_what_fails_on_the_short_way_goes_the_models_own(part: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    runner, right = runner_for("llama"), plain("llama")
    monkeypatch.setattr(shortcut.Shortcut, part, lambda self, *given: 1 / 0)
    for at in range(BLOCK):
        assert torch.equal(logits(runner, decode(3 + at % 2, at)), logits(right, decode(3 + at % 2, at)))
    assert "only the layers of this model are replayed: ZeroDivisionError" in caplog.text


def test_a_difference_is_seen_and_the_models_own_scores_answer(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    runner, right = runner_for("llama"), plain("llama")
    runs = passes(runner)
    short = shortcut.Shortcut._short
    monkeypatch.setattr(shortcut.Shortcut, "_short", lambda self, plan: short(self, plan) + 1e-6)
    for at in range(BLOCK):
        assert torch.equal(logits(runner, decode(3 + at % 2, at)), logits(right, decode(3 + at % 2, at)))
    assert len(runs) == BLOCK
    assert "only the layers of this model are replayed: the scores differ" in caplog.text


def test_a_model_with_a_table_of_positions_is_not_asked_beyond_it(monkeypatch: pytest.MonkeyPatch):
    runner = runner_for("llama", max_position_embeddings=24)
    asked: list[int] = []
    look_up = shortcut.Shortcut._look_up
    monkeypatch.setattr(shortcut.Shortcut, "_look_up", lambda self, until: asked.append(until) or look_up(self, until))
    for length in range(3, 8):
        logits(runner, mixed(0, (length, 4), 16))
    logits(runner, mixed(0, (3, 8), 20))
    assert asked == [24, 28]
