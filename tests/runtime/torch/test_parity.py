"""Answers never depend on who else is in the batch: greedy output against `generate` alone, and mutants that must be noticed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pytest
import torch

from jitney_runtime.engine.block_pool import BlockPool
from jitney_runtime.engine.engine import Engine
from jitney_runtime.engine.model_runner import ScheduledBatch, ScheduledRow
from jitney_runtime.engine.scheduler import Scheduler
from jitney_runtime.engine.sequence import SamplingParams
from jitney_runtime.torch_backend import attention
from jitney_runtime.torch_backend import runner as runner_module
from jitney_runtime.torch_backend.cpu_model import use_kernels
from jitney_runtime.torch_backend.runner import TorchRunner
from support.engine import make_sequence
from support.models import TINY, smollm2, tiny_model
from support.parity import ALLOWED_TIES, Verdict, batched_answers, compare, random_prompts, solo_answers

attention.register()
BLOCK = 8
# torch's operators, and ours with recorded steps.
KERNELS = ["plain", "native"]


def runner_for(model: torch.nn.Module, blocks: int, kernel: str = "plain") -> TorchRunner:
    use_kernels(model, kernel)
    with torch.inference_mode():
        runner = TorchRunner(model, torch.device("cpu"), torch.float32, BLOCK, kernel)
        runner.allocate(blocks)
    return runner


def assert_right(verdict: Verdict) -> None:
    print(verdict)
    assert not verdict.wrong, str(verdict)
    assert verdict.ties <= max(1, ALLOWED_TIES * (verdict.equal + verdict.ties)), str(verdict)


@pytest.mark.parametrize("kernel", ["plain", "onednn", "native"])
@pytest.mark.parametrize("kind", TINY)
def test_tiny_models_answer_as_alone(kind: str, kernel: str):
    """Two orders of arrival, end and abort."""
    reference = tiny_model(kind, "sdpa")
    solos = solo_answers(reference, random_prompts(40, 300, 60, seed=1), 24)
    runner = runner_for(tiny_model(kind, attention.NAME), 200, kernel)
    for seed in range(2, 4):
        answers, _ = batched_answers(runner, [solo.prompt for solo in solos], 24, blocks=200, seed=seed)
        assert_right(compare(reference, solos, answers))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 130))
@pytest.mark.parametrize("kind", TINY)
def test_tiny_models_answer_as_alone_whatever_comes(kind: str, seed: int):
    """Other prompts, lengths, budgets, orders and pools, from one that preempts at every turn to one that never does."""
    reference = tiny_model(kind, "sdpa")
    solos = solo_answers(reference, random_prompts(24, 300, 60, seed=seed), 24)
    blocks = 12 + seed % 10 * 8
    runner = runner_for(tiny_model(kind, attention.NAME), blocks, ("plain", "onednn", "native")[seed % 3])
    answers, _ = batched_answers(runner, [solo.prompt for solo in solos], 24, blocks=blocks, seed=seed)
    assert_right(compare(reference, solos, answers))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_tiny_models_answer_as_alone_under_preemption(kind: str, kernel: str):
    reference = tiny_model(kind, "sdpa")
    solos = solo_answers(reference, random_prompts(30, 300, 40, seed=3), 24)
    runner = runner_for(tiny_model(kind, attention.NAME), 14, kernel)
    answers, engine = batched_answers(runner, [solo.prompt for solo in solos], 24, blocks=14, seed=4, shortest=24)
    assert engine.stats().preemptions > 20
    assert_right(compare(reference, solos, answers))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_what_the_pool_held_before_is_never_read(kind: str, kernel: str):
    """NaN everywhere: a place that is read before it is written, even with weight 0, would spoil an answer."""
    reference = tiny_model(kind, "sdpa")
    solos = solo_answers(reference, random_prompts(30, 300, 40, seed=11), 24)
    runner = runner_for(tiny_model(kind, attention.NAME), 40, kernel)
    with torch.inference_mode():
        for cache in runner.attention.caches:
            cache.keys.fill_(float("nan"))
            cache.values.fill_(float("nan"))
    answers, _ = batched_answers(runner, [solo.prompt for solo in solos], 24, blocks=40, seed=12)
    assert_right(compare(reference, solos, answers))


def test_smollm2_answers_as_alone_with_a_pool_that_forces_preemption():
    """The real model and the real kernels' choice; 14 conversations that outgrow a pool for one of them and a bit."""
    reference = smollm2("sdpa")
    prompts = random_prompts(14, 49_000, 12, seed=5)
    solos = solo_answers(reference, prompts, 32)
    runner = runner_for(smollm2(attention.NAME), 7, "auto")
    answers, engine = batched_answers(runner, prompts, 32, blocks=7, seed=6, shortest=32)
    print(f"{engine.stats().preemptions} preemptions")
    assert engine.stats().preemptions >= 20
    assert_right(compare(reference, solos, answers))


Plan = attention.StepPlan


def position_off_by_one(plan: Plan, step: int) -> Plan:
    return dataclasses.replace(plan, positions=torch.where(plan.positions > 20, plan.positions + 1, plan.positions))


def a_neighbours_block(plan: Plan, step: int) -> Plan:
    tables = plan.decode_tables
    return plan if tables is None or len(tables) < 2 else dataclasses.replace(plan, decode_tables=torch.cat([tables[1:2], tables[1:]]))


def stale_state(plan: Plan, step: int) -> Plan:
    """Every seventh step writes its keys and values elsewhere: what the blocks held before stays."""
    return dataclasses.replace(plan, slots=torch.zeros_like(plan.slots)) if step % 7 == 6 else plan


def attention_looks_at_itself_only(plan: Plan, step: int) -> Plan:
    lengths = plan.decode_lengths
    return plan if lengths is None else dataclasses.replace(plan, decode_lengths=torch.ones_like(lengths))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("mutate", [position_off_by_one, a_neighbours_block, stale_state, attention_looks_at_itself_only])
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_broken_engine_is_noticed(kind: str, mutate: Callable[[Plan, int], Plan], kernel: str, monkeypatch: pytest.MonkeyPatch):
    reference = tiny_model(kind, "sdpa")
    solos = solo_answers(reference, random_prompts(20, 300, 40, seed=7), 24)
    runner = runner_for(tiny_model(kind, attention.NAME), 120, kernel)
    steps = itertools.count()
    monkeypatch.setattr(runner_module, "plan_step", lambda *arguments: mutate(attention.plan_step(*arguments), next(steps)))
    answers, _ = batched_answers(runner, [solo.prompt for solo in solos], 24, blocks=120, seed=8)
    assert compare(reference, solos, answers).wrong


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_model_without_attention_is_noticed(kind: str, kernel: str, monkeypatch: pytest.MonkeyPatch):
    reference = tiny_model(kind, "sdpa")
    solos = solo_answers(reference, random_prompts(20, 300, 40, seed=7), 24)
    runner = runner_for(tiny_model(kind, attention.NAME), 120, kernel)
    attend = runner.attention.attend
    monkeypatch.setattr(runner.attention, "attend", lambda *arguments: torch.zeros_like(attend(*arguments)))
    answers, _ = batched_answers(runner, [solo.prompt for solo in solos], 24, blocks=120, seed=8)
    assert compare(reference, solos, answers).wrong


def test_the_rows_of_a_step_enter_the_first_linear_layer_together():
    """16 sequences decode in one matrix product: after their prompts each forward pass has 16 rows, one for each."""
    model = tiny_model("llama", attention.NAME)
    runner = runner_for(model, 200)
    rows: list[int] = []
    model.get_submodule("model.layers.0.self_attn.q_proj").register_forward_pre_hook(lambda module, inputs: rows.append(inputs[0].shape[1]))
    engine = Engine(Scheduler(BlockPool(200, BLOCK), 16, 512, 256), runner)
    for number, prompt in enumerate(random_prompts(16, 300, 10, seed=9)):
        engine.add(make_sequence(str(number), prompt, 24, ignore_eos=True))
    tokens = 0
    while engine.has_work:
        tokens += len(engine.step().outputs)
    assert tokens == 16 * 24
    assert len(rows) < tokens / 4
    assert rows[1:] == [16] * 23


def test_a_batch_without_rows_to_sample_computes_no_logits():
    runner = runner_for(tiny_model("llama", attention.NAME), 20)
    chunk = ScheduledRow("s", (1, 2, 3), 0, (0,), False, SamplingParams(1), 0)
    assert runner.run(ScheduledBatch((chunk,))) == []
    assert len(runner.run(ScheduledBatch((dataclasses.replace(chunk, sample=True),)))) == 1
