"""Smaller weights: how near the answers stay, that they depend on nobody else either, and what becomes of a kernel that is wrong."""

from __future__ import annotations

import functools
import json
import logging
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from jitney_runtime.engine.model_runner import ScheduledBatch, ScheduledRow
from jitney_runtime.engine.sequence import SamplingParams
from jitney_runtime.errors import NotSupportedYet
from jitney_runtime.progress import Progress
from jitney_runtime.settings import RuntimeSettings
from jitney_runtime.torch_backend import attention, cpu_kernels, linears, loading
from jitney_runtime.torch_backend.attention import plan_step
from jitney_runtime.torch_backend.cpu_kernels import BlockAttention, BlockStep, Format, Packed
from jitney_runtime.torch_backend.cpu_model import use_kernels
from jitney_runtime.torch_backend.linears import BFloat16Linear, Int8Linear, NativeLinear, PackedLinear, Precision, WidenedLinear
from jitney_runtime.torch_backend.runner import TorchRunner
from support.models import ODD, TINY, smollm2, smollm2_folder, tiny_model
from support.parity import batched_answers, random_prompts
from support.verdict import TOTAL

attention.register()
CPU = torch.device("cpu")
SMALLER = [Precision.BFLOAT16, Precision.INT8, Precision.INT4]
# Of the logits' spread. A random model is the hardest: nothing in it is redundant.
NEAR = {Precision.BFLOAT16: 0.05, Precision.INT8: 0.2, Precision.INT4: 0.6}
TEXT = (
    "The station at the edge of the town had two platforms and one clock. In the morning the first bus came down from the hills with "
    "the people who worked at the mill, and in the evening it took them back. Nobody had ever seen it late. When the new road was "
    "built, the company bought a second bus, and for a while the two drivers raced each other to the bridge, until the baker's dog "
    "learned to sit in the middle of it. After that they took turns. The clock stopped in the winter of the great snow, and since "
    "everybody knew when the bus came, it was never repaired."
)


def runner_for(model: nn.Module, precision: Precision, blocks: int = 64, kernel: str = "auto") -> TorchRunner:
    use_kernels(model, kernel, precision)
    with torch.inference_mode():
        runner = TorchRunner(model, CPU, torch.float32, 16, kernel)
        runner.allocate(blocks)
    return runner


def logits(runner: TorchRunner, tokens: list[int]) -> torch.Tensor:
    """[len(tokens), vocabulary], after each of them, as one prompt; the engine itself asks for the last one only."""
    blocks = tuple(range(-(-len(tokens) // runner.block_size)))
    plan = plan_step(ScheduledBatch((ScheduledRow("p", tuple(tokens), 0, blocks, True, SamplingParams(1), 0),)), runner.block_size, CPU)
    with torch.inference_mode():
        runner.attention.begin(plan)
        found: torch.Tensor = runner.model(input_ids=torch.tensor([tokens]), position_ids=plan.positions, use_cache=False).logits[0]
    return found


@functools.cache
def exact(kind: str) -> torch.Tensor:
    return logits(runner_for(tiny_model(kind, attention.NAME), Precision.FLOAT32, kernel="plain"), list(range(20, 44)))


@pytest.mark.parametrize("precision", SMALLER)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [*TINY, *ODD])
def test_tiny_models_stay_near(kind: str, stored: torch.dtype, precision: Precision):
    """Whether the checkpoint is float32 or bfloat16: what is not a product is computed in float32."""
    runner = runner_for(tiny_model(kind, attention.NAME).to(stored), precision)
    found = logits(runner, list(range(20, 44)))
    assert found.dtype is torch.float32
    off = float((found - exact(kind)).norm() / exact(kind).norm())
    print(f"{kind} of {stored} as {precision}: {off:.4f}")
    assert 0 < off < NEAR[precision]


@pytest.mark.parametrize("precision", SMALLER)
def test_every_product_is_made_of_smaller_weights(precision: Precision):
    model = tiny_model("llama", attention.NAME)
    use_kernels(model, "auto", precision)
    forms = {name: module.packed.form.name for name, module in model.named_modules() if isinstance(module, NativeLinear)}
    assert not [module for module in model.modules() if type(module) is nn.Linear]
    if precision is Precision.INT4:
        # Of a small model what 4 bits would spoil stays int8, and a value projection by itself.
        delicate = {name for name, form in forms.items() if form == "INT8"}
        assert {name.rpartition(".")[2] for name in delicate} == {"lm_head", "v_proj", "o_proj", "down"}
        assert len(delicate) == 3 * 3 + 1
        forms = {name: form for name, form in forms.items() if name not in delicate}
    else:
        assert forms.pop("lm_head") == forms["model.layers.0.mlp.down"]
    smallest = {"BFLOAT16", "WIDENED"} if precision is Precision.BFLOAT16 else {precision.name}
    assert len(forms) == (3 if precision is Precision.INT4 else 3 * 3)
    assert set(forms.values()) <= smallest


@pytest.mark.parametrize("precision", SMALLER)
def test_answers_do_not_depend_on_the_company(precision: Precision):
    """One after the other, and in whatever batches: the same tokens, because each row of a product is bitwise the same in any company."""
    prompts = random_prompts(20, 300, 14, seed=21)
    make = functools.partial(runner_for, precision=precision, blocks=120)
    alone, _ = batched_answers(make(tiny_model("llama", attention.NAME)), prompts, 16, blocks=120, seed=3, rows=1, shortest=16)
    for seed in (4, 5):
        together, _ = batched_answers(make(tiny_model("llama", attention.NAME)), prompts, 16, blocks=120, seed=seed, shortest=16)
        assert sum(one == other for one, other in zip(alone, together, strict=True)) >= 19


@functools.cache
def words() -> list[int]:
    tokenizer = loading.read_tokenizer(smollm2_folder(), "m")
    ids: list[int] = tokenizer.encode(TEXT)
    return ids


def test_the_real_model_is_hardly_worse():
    """What the bench measures on a longer text; here so that a kernel that is a little wrong is noticed: the perplexity, and how often the
    same token comes first."""
    ids = words()
    alone = logits(runner_for(smollm2(attention.NAME), Precision.FLOAT32), ids)
    for precision, most, least in ((Precision.BFLOAT16, 1.01, 0.97), (Precision.INT8, 1.03, 0.90), (Precision.INT4, 1.08, 0.80)):
        found = logits(runner_for(smollm2(attention.NAME), precision), ids)
        ratio = perplexity(found, ids) / perplexity(alone, ids)
        same = float((found.argmax(-1) == alone.argmax(-1)).float().mean())
        TOTAL.told.append(f"{precision}: perplexity {ratio:.4f} of float32's, {same:.3f} of the best tokens the same")
        assert 0.97 < ratio < most
        assert same > least


def perplexity(found: torch.Tensor, ids: list[int]) -> float:
    return math.exp(-float(found[:-1].log_softmax(-1)[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].mean()))


def test_a_quantized_model_answers():
    loaded = loading.load(RuntimeSettings(str(smollm2_folder()), "m", quantization="int8", max_num_seqs=2, max_model_len=128), Progress())
    question = [{"role": "user", "content": "What is the capital of France?"}]
    ids = loaded.tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    answers, _ = batched_answers(loaded.runner, [ids], 7, blocks=8, seed=1, shortest=7)
    assert loaded.tokenizer.decode(answers[0]).startswith("The capital of France is Paris")


def test_quantization_without_kernels_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cpu_kernels, "available", lambda: False)
    with pytest.raises(NotSupportedYet, match="quantization int8 needs a CPU with AVX2"):
        loading.load(RuntimeSettings("m", "m", quantization="int8"), Progress())


@pytest.mark.parametrize("kernel", ["auto", "native"])
def test_a_model_of_another_float_is_not_ours(kernel: str):
    """float16 between the products: our kernels would read twice the bytes that are there."""
    model = tiny_model("llama", attention.NAME).half()
    use_kernels(model, kernel)
    assert not [module for module in model.modules() if isinstance(module, NativeLinear)]
    with torch.inference_mode():
        runner = TorchRunner(model, CPU, torch.float16, 16, kernel)
        runner.allocate(8)
    assert not runner.attention.native


@pytest.mark.parametrize("kernel", ["auto", "native"])
def test_a_kernel_that_is_wrong_is_not_used(kernel: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """One output of hundreds, and only in company."""
    product = cpu_kernels.linear

    def wrong(inputs: torch.Tensor, *arguments: object) -> torch.Tensor:
        output = product(inputs, *arguments)  # type: ignore[arg-type]
        output[1:, 5] += 1
        return output

    monkeypatch.setattr(cpu_kernels, "linear", wrong)
    model = tiny_model("llama", attention.NAME)
    use_kernels(model, kernel)
    assert not [module for module in model.modules() if isinstance(module, NativeLinear)]
    assert "the native kernel failed its self-check" in caplog.text


def test_attention_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """One number of a prompt's second chunk, or of an answer's token; and what is used instead answers the same."""
    model = tiny_model("llama", attention.NAME)
    use_kernels(model, "native")
    with torch.inference_mode():
        right = TorchRunner(model, CPU, torch.float32, 16, "native")
        right.allocate(8)
        assert right.attention.native
        row = ScheduledRow("p", tuple(range(1, 30)), 0, (3, 2), True, SamplingParams(1), 0)
        wanted = right.forward(ScheduledBatch((row,))).clone()
    attend = BlockAttention.attend
    for tokens in (1, 65):

        def wrong(self: BlockAttention, step: BlockStep, query: torch.Tensor, tokens: int = tokens) -> torch.Tensor:
            output = attend(self, step, query)
            if len(output) == tokens:
                output[0, 0, 3] += 0.5
            return output

        monkeypatch.setattr(BlockAttention, "attend", wrong)
        caplog.clear()
        with torch.inference_mode():
            runner = TorchRunner(model, CPU, torch.float32, 16, "native")
            runner.allocate(8)
            assert not runner.attention.native
            assert "the attention kernel failed its self-check" in caplog.text
            assert torch.allclose(runner.forward(ScheduledBatch((row,))), wanted, atol=1e-4)


def test_a_kernel_that_was_asked_for_is_taken_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(linears, "_seconds", lambda *_: pytest.fail("nothing is timed"))
    model = tiny_model("llama", attention.NAME).bfloat16()
    chosen = linears.choose_kernel(model, "native", Precision.BFLOAT16)
    assert chosen is (BFloat16Linear if cpu_kernels.has(Format.BFLOAT16) else WidenedLinear)


def test_what_no_kernel_computes_is_refused_or_stays_float32(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    """A pod that was sized for int8 has no room for more; bfloat16 was nobody's promise."""
    for kernel in (Int8Linear, BFloat16Linear, WidenedLinear):
        monkeypatch.setattr(kernel, "tolerance", 0.0)
    with pytest.raises(NotSupportedYet, match="no kernel for int8 computes this model rightly on this machine: set quantization to none"):
        use_kernels(tiny_model("llama", attention.NAME), "auto", Precision.INT8)
    model = tiny_model("llama", attention.NAME).bfloat16()
    assert use_kernels(model, "auto", Precision.BFLOAT16) is Precision.FLOAT32
    assert "no kernel for bfloat16 works on this machine: float32 is used" in caplog.text
    with torch.inference_mode():
        runner = TorchRunner(model, CPU, torch.float32, 16)
        runner.allocate(64)
    found = logits(runner, list(range(20, 44)))
    assert float((found - exact("llama")).norm() / exact("llama").norm()) < NEAR[Precision.BFLOAT16]


def test_what_is_quantized_already_is_not_quantized_again(tmp_path: Path):
    model = tiny_model("llama", attention.NAME)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq", "bits": 4}}))
    with pytest.raises(NotSupportedYet, match="is quantized already: set quantization to none"):
        loading.load(RuntimeSettings(str(tmp_path), "m", quantization="int8"), Progress())


def test_the_fastest_is_taken_and_the_log_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    figures: dict[type[PackedLinear] | None, float] = {None: 3.0, NativeLinear: 2.0, linears.OneDNNLinear: 1.0}
    monkeypatch.setattr(linears, "_seconds", lambda candidates, *rest: figures)
    assert linears.choose_kernel(tiny_model("llama", attention.NAME), "auto") is linears.OneDNNLinear
    # Not for a little: with ours come fused parts and recorded steps.
    figures[linears.OneDNNLinear] = 1.9
    assert linears.choose_kernel(tiny_model("llama", attention.NAME), "auto") is NativeLinear
    assert "linear layers: onednn of" in caplog.text


def test_a_large_layer_is_judged_by_a_part_of_it(monkeypatch: pytest.MonkeyPatch):
    """Copies of a large vocabulary, one for each candidate, would be the most memory that a pod ever takes."""
    packed: list[int] = []
    pack = cpu_kernels.pack

    def counted(weight: torch.Tensor, form: Format) -> Packed:
        packed.append(weight.numel())
        return pack(weight, form)

    monkeypatch.setattr(linears, "_JUDGED", 2000)
    monkeypatch.setattr(cpu_kernels, "pack", counted)
    model = tiny_model("llama", attention.NAME)
    assert linears.choose_kernel(model, "auto", Precision.BFLOAT16) is not None
    assert max(layer.weight.numel() for layer in model.modules() if type(layer) is nn.Linear) > 2000 >= max(packed)
