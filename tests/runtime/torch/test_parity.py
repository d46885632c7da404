"""Answers never depend on who else is in the batch: greedy output against `generate` alone, and mutants that must be noticed."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedModel

from jitney_runtime.engine.block_pool import BlockPool
from jitney_runtime.engine.engine import Engine
from jitney_runtime.engine.model_runner import ModelRunner, ScheduledBatch, ScheduledRow
from jitney_runtime.engine.scheduler import Scheduler
from jitney_runtime.engine.sequence import SamplingParams
from jitney_runtime.torch_backend import attention
from jitney_runtime.torch_backend import runner as runner_module
from jitney_runtime.torch_backend.cpu_model import use_kernels
from jitney_runtime.torch_backend.runner import TorchRunner
from support.engine import make_sequence
from support.models import ODD, TINY, smollm2, tiny_model
from support.parity import (
    Solo,
    assert_as_alone,
    batched_answers,
    compare,
    compare_texts,
    random_prompts,
    solo_answers,
)
from support.rows import RowCounter
from support.verdict import Verdict

attention.register()
BLOCK = 8
# torch's operators, and ours with recorded steps.
KERNELS = ["plain", "native"]


def runner_for(
    model: torch.nn.Module, blocks: int, kernel: str = "plain", watch: Callable[[torch.nn.Module], None] | None = None
) -> TorchRunner:
    use_kernels(model, kernel)
    if watch:
        watch(model)
    with torch.inference_mode():
        runner = TorchRunner(model, torch.device("cpu"), torch.float32, BLOCK, kernel)
        runner.allocate(blocks)
    return runner


@functools.cache
def alone(kind: str, prompts: int, longest: int, seed: int) -> tuple[PreTrainedModel, list[Solo]]:
    """A tiny model and its answers, which the same for each kernel need not be generated for each."""
    reference = tiny_model(kind, "sdpa")
    return reference, solo_answers(reference, random_prompts(prompts, 300, longest, seed=seed), 24)


@pytest.mark.parametrize("kernel", ["plain", "onednn", "native"])
@pytest.mark.parametrize("kind", [*TINY, *ODD])
def test_tiny_models_answer_as_alone(kind: str, kernel: str):
    """Two orders of arrival, end and abort."""
    reference, solos = alone(kind, 40, 60, seed=1)
    runner = runner_for(tiny_model(kind, attention.NAME), 200, kernel)
    for seed in range(2, 4):
        answers, _ = batched_answers(runner, [solo.prompt for solo in solos], 24, blocks=200, seed=seed)
        assert_as_alone(compare(reference, solos, answers))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 130))
@pytest.mark.parametrize("kind", [*TINY, *ODD])
def test_tiny_models_answer_as_alone_whatever_comes(kind: str, seed: int):
    """Other prompts, lengths, budgets, orders and pools, from one that preempts at every turn to one that never does."""
    reference, solos = alone(kind, 24, 60, seed=seed)
    blocks = 12 + seed % 10 * 8
    runner = runner_for(tiny_model(kind, attention.NAME), blocks, ("plain", "onednn", "native")[seed % 3])
    answers, _ = batched_answers(runner, [solo.prompt for solo in solos], 24, blocks=blocks, seed=seed)
    assert_as_alone(compare(reference, solos, answers))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_tiny_models_answer_as_alone_under_preemption(kind: str, kernel: str):
    reference, solos = alone(kind, 30, 40, seed=3)
    runner = runner_for(tiny_model(kind, attention.NAME), 14, kernel)
    answers, engine = batched_answers(runner, [solo.prompt for solo in solos], 24, blocks=14, seed=4, shortest=24)
    assert engine.stats().preemptions > 20
    assert_as_alone(compare(reference, solos, answers))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", [*TINY, *ODD])
def test_who_shares_a_beginning_answers_as_alone(kind: str, kernel: str):
    """Six beginnings of two to four blocks, some within others; what is shared was computed by whoever came first, in whatever chunks."""
    reference = tiny_model(kind, "sdpa")
    beginnings = random_prompts(3, 300, 4 * BLOCK, seed=31)
    beginnings += [beginning[: 2 * BLOCK] for beginning in beginnings]
    ends = random_prompts(30, 300, 12, seed=32)
    prompts = [beginnings[number % len(beginnings)] + end for number, end in enumerate(ends)]
    solos = solo_answers(reference, prompts, 16)
    runner = runner_for(tiny_model(kind, attention.NAME), 60, kernel)
    answers, engine = batched_answers(runner, prompts, 16, blocks=60, seed=33)
    assert engine.stats().shared_tokens > 10 * BLOCK
    assert_as_alone(compare(reference, solos, answers))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_what_the_pool_held_before_is_never_read(kind: str, kernel: str):
    """NaN everywhere: a place that is read before it is written, even with weight 0, would spoil an answer."""
    reference, solos = alone(kind, 30, 40, seed=11)
    runner = runner_for(tiny_model(kind, attention.NAME), 40, kernel)
    with torch.inference_mode():
        for cache in runner.attention.caches:
            cache.keys.fill_(float("nan"))
            cache.values.fill_(float("nan"))
    answers, _ = batched_answers(runner, [solo.prompt for solo in solos], 24, blocks=40, seed=12)
    assert_as_alone(compare(reference, solos, answers))


def test_smollm2_answers_as_alone_with_a_pool_that_forces_preemption():
    """The real model and the real kernels' choice; 14 conversations that outgrow a pool for one of them and a bit."""
    reference = smollm2("sdpa")
    prompts = random_prompts(14, 49_000, 12, seed=5)
    solos = solo_answers(reference, prompts, 32)
    runner = runner_for(smollm2(attention.NAME), 7, "auto")
    answers, engine = batched_answers(runner, prompts, 32, blocks=7, seed=6, shortest=32)
    print(f"{engine.stats().preemptions} preemptions")
    assert engine.stats().preemptions >= 20
    assert_as_alone(compare(reference, solos, answers))


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
    reference, solos = alone(kind, 20, 40, seed=7)
    runner = runner_for(tiny_model(kind, attention.NAME), 120, kernel)
    steps = itertools.count()
    monkeypatch.setattr(runner_module, "plan_step", lambda *arguments: mutate(attention.plan_step(*arguments), next(steps)))
    answers, _ = batched_answers(runner, [solo.prompt for solo in solos], 24, blocks=120, seed=8)
    assert compare(reference, solos, answers).wrong


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_model_without_attention_is_noticed(kind: str, kernel: str, monkeypatch: pytest.MonkeyPatch):
    reference, solos = alone(kind, 20, 40, seed=7)
    runner = runner_for(tiny_model(kind, attention.NAME), 120, kernel)
    attend = runner.attention.attend
    monkeypatch.setattr(runner.attention, "attend", lambda *arguments: torch.zeros_like(attend(*arguments)))
    answers, _ = batched_answers(runner, [solo.prompt for solo in solos], 24, blocks=120, seed=8)
    assert compare(reference, solos, answers).wrong


class OneByOne:
    """Batching that is only claimed: the engine gives 16 rows, and the model computes one after the other."""

    def __init__(self, runner: TorchRunner) -> None:
        self._runner = runner

    def run(self, batch: ScheduledBatch) -> list[int]:
        return [token for row in batch.rows for token in self._runner.run(ScheduledBatch((row,)))]


def entered_in_each_step(kernel: str, wrap: Callable[[TorchRunner], ModelRunner], monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Per step of 16 chats with 24 tokens each, the rows of every product of the first linear layer; `native` has replayed most of them."""
    counter = RowCounter()
    runner = runner_for(tiny_model("llama", attention.NAME), 200, kernel, lambda model: counter.watch(model, monkeypatch))
    engine = Engine(Scheduler(BlockPool(200, BLOCK), 16, 512, 256), wrap(runner))
    counter.entered.clear()
    for number, prompt in enumerate(random_prompts(16, 300, 10, seed=9)):
        engine.add(make_sequence(str(number), prompt, 24, ignore_eos=True))
    tokens, entered = 0, []
    while engine.has_work:
        tokens += len(engine.step().outputs)
        entered.append(counter.entered.copy())
        counter.entered.clear()
    assert tokens == 16 * 24
    assert len(entered) < tokens / 4
    # All but the prompts' step and the one that is recorded.
    assert counter.replayed >= (22 if kernel == "native" else 0)
    return entered


@pytest.mark.parametrize("kernel", ["plain", "onednn", "native"])
def test_the_rows_of_a_step_enter_the_first_linear_layer_together(kernel: str, monkeypatch: pytest.MonkeyPatch):
    """16 sequences decode in one matrix product, replayed steps included: one product a step, and 16 rows in it."""
    prompts, *decodes = entered_in_each_step(kernel, lambda runner: runner, monkeypatch)
    assert len(prompts) == 1
    assert len(decodes) == 23
    if kernel == "native":
        # The second step of a kind is computed twice, by the replay and by the model, and both are compared; so is the third, the first
        # without the model's own Python around the replay.
        assert decodes.pop(1) == [16, 16]
        assert decodes.pop(1) == [16, 16]
    assert decodes == [[16]] * len(decodes)


@pytest.mark.parametrize("kernel", ["plain", "onednn", "native"])
def test_batching_that_is_only_claimed_is_noticed(kernel: str, monkeypatch: pytest.MonkeyPatch):
    _, *decodes = entered_in_each_step(kernel, OneByOne, monkeypatch)
    assert all(set(entered) == {1} and len(entered) >= 16 for entered in decodes)


def test_a_batch_without_rows_to_sample_computes_no_logits():
    runner = runner_for(tiny_model("llama", attention.NAME), 20)
    chunk = ScheduledRow("s", (1, 2, 3), 0, (0,), False, SamplingParams(1), 0)
    assert runner.run(ScheduledBatch((chunk,))) == []
    assert len(runner.run(ScheduledBatch((dataclasses.replace(chunk, sample=True),)))) == 1


def almost_twins(gap: float) -> tuple[PreTrainedModel, list[Solo], list[list[int]]]:
    """A model, its answers, and the same with one token of the first answer exchanged for another that is so near to it."""
    reference = tiny_model("llama", "sdpa")
    prompts = random_prompts(3, 300, 20, seed=13)
    solos = solo_answers(reference, prompts, 6)
    place = 3
    token = solos[0].tokens[place]
    twin = next(number for number in range(300) if all(number not in (*solo.prompt, *solo.tokens) for solo in solos))
    logits = reference(torch.tensor([solos[0].prompt + solos[0].tokens[:place]])).logits[0, -1]
    # A little less than the one that it resembles, so that alone it is never chosen.
    share = 1 - gap * float(logits.std()) / float(logits[token])
    reference.lm_head.weight[twin] = reference.lm_head.weight[token] * share
    solos = solo_answers(reference, prompts, 6)
    assert solos[0].tokens[place] == token
    answers = [list(solo.tokens) for solo in solos]
    answers[0][place] = twin
    return reference, solos, answers


def letters(tokens: list[int]) -> str:
    return "".join(chr(0x4E00 + token) for token in tokens)


@pytest.mark.parametrize(("gap", "counts"), [(2e-5, (2, 1, 0)), (3e-4, (2, 0, 1)), (5e-3, (2, 0, 1))])
def test_only_what_float64_cannot_tell_apart_is_a_near_tie(gap: float, counts: tuple[int, int, int]):
    """By tokens, and by texts as a server answers them."""
    reference, solos, answers = almost_twins(gap)
    by_tokens = compare(reference, solos, answers)
    by_texts = compare_texts(reference, solos, [letters(tokens) for tokens in answers], letters)
    for verdict in (by_tokens, by_texts):
        assert (verdict.equal, verdict.ties, len(verdict.wrong)) == counts
    with pytest.raises(AssertionError):
        # An answer that ends too soon, and one of somebody else's.
        assert_as_alone(compare_texts(reference, solos[1:], [letters(answers[1][:3]), letters(answers[1])], letters), Verdict())
    with pytest.raises(AssertionError):
        assert_as_alone(compare(reference, solos[1:], [answers[2], answers[1]]), Verdict())


@pytest.mark.parametrize(
    ("equal", "ties", "rare"), [(16, 0, True), (15, 1, False), (998, 1, False), (999, 1, True), (1998, 2, True), (1997, 2, False)]
)
def test_one_near_tie_in_a_thousand_is_rare(equal: int, ties: int, rare: bool):
    assert Verdict(equal, ties).rare == rare


def test_verdicts_are_added_up():
    total = Verdict()
    assert_as_alone(Verdict(14, 0, clear=12), total)
    assert_as_alone(Verdict(19, 1, clear=18), total)
    with pytest.raises(AssertionError, match="1 wrong"):
        assert_as_alone(Verdict(2, 0, ["#1"], clear=3), total)
    assert (total.equal, total.ties, total.wrong, total.clear, total.count) == (35, 1, ["#1"], 33, 37)
