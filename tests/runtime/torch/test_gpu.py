"""On a real GPU: our kernels against float64, the answers of `generate`, recorded steps, narrow weights, a card that is too small."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import torch
from torch import nn
from torch.nn.functional import linear
from transformers import AutoTokenizer

from jitney_operator import fit
from jitney_runtime.engine.model_runner import ScheduledBatch, ScheduledRow
from jitney_runtime.engine.sequence import SamplingParams
from jitney_runtime.progress import Progress
from jitney_runtime.settings import parse_settings
from jitney_runtime.text.chat import prompt_ids
from jitney_runtime.torch_backend import attention, cuda_elementwise, loading
from jitney_runtime.torch_backend.cuda_attention import CudaBlockAttention, CudaStep, PromptRow, Rows, Sums
from jitney_runtime.torch_backend.cuda_linears import QuantizedLinear
from jitney_runtime.torch_backend.cuda_model import use_cuda
from jitney_runtime.torch_backend.fusions import GatedMLP, RMSNorm, SharedLinear
from jitney_runtime.torch_backend.kv_cache import KVCache, LayerCache, LayerShape
from jitney_runtime.torch_backend.linears import Precision
from jitney_runtime.torch_backend.runner import TorchRunner
from support.models import TINY, smollm2, smollm2_folder, tiny_model
from support.parity import assert_as_alone, batched_answers, compare, random_prompts, solo_answers
from support.process import running_runtime

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]
attention.register()
GPU = torch.device("cuda")
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]
COUNT, BLOCK = 24, 8
# Of a result's norm, beside float64.
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}


# Attention


def filled(shape: LayerShape, blocks: int, block_size: int, dtype: torch.dtype) -> LayerCache:
    """Everything that nobody stored is NaN."""
    cache = KVCache([shape], blocks, block_size, dtype, GPU).layers[0]
    cache.keys.fill_(float("nan")), cache.values.fill_(float("nan"))
    return cache


def wanted(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, window: int | None) -> torch.Tensor:
    """query [tokens, heads, dim] of the last tokens; keys and values [length, kv_heads, dim]. In float64."""
    query, keys, values = query.double(), keys.double(), values.double()
    group, length, tokens = query.shape[1] // keys.shape[1], len(keys), len(query)
    scores = scale * torch.einsum("qhd,khd->hqk", query, keys.repeat_interleave(group, 1))
    at = torch.arange(length - tokens, length, device=GPU)[:, None]
    seen = torch.arange(length, device=GPU)[None, :]
    hidden = (seen > at) | (seen <= at - (window or length + 1))
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), values.repeat_interleave(group, 1))


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "key_dim", "value_dim"), [(9, 3, 64, 64), (28, 4, 128, 128), (16, 1, 96, 96), (4, 4, 192, 128)]
)
@torch.inference_mode()
def test_a_step_attends_as_float64_does(heads: int, kv_heads: int, key_dim: int, value_dim: int, dtype: torch.dtype, window: int | None):
    """Decoding rows of any length, some cut into parts, and chunks of prompts between them, in blocks that lie anywhere."""
    block_size, lengths, chunks = 16, [1, 2, 16, 17, 127, 300, 1000, 5000], [(0, 50), (33, 100), (1000, 64)]
    torch.manual_seed(0)
    shape = LayerShape(kv_heads, key_dim, value_dim)
    ends = lengths + [start + count for start, count in chunks]
    free = torch.randperm(sum(-(-end // block_size) for end in ends)).tolist()
    cache, scale = filled(shape, len(free), block_size, dtype), key_dim**-0.5
    tables = [[free.pop() for _ in range(-(-end // block_size))] for end in ends]
    slots = [[table[at // block_size] * block_size + at % block_size for at in range(end)] for table, end in zip(tables, ends, strict=True)]
    keys = [torch.randn(end, kv_heads, key_dim, device=GPU).to(dtype) for end in ends]
    values = [torch.randn(end, kv_heads, value_dim, device=GPU).to(dtype) for end in ends]
    # What came before this step is there; this step's own tokens are stored by it, the prompts first.
    new = [1] * len(lengths) + [count for _, count in chunks]
    order = [*range(len(lengths), len(ends)), *range(len(lengths))]
    for number, count in enumerate(new):
        before = torch.tensor(slots[number][: ends[number] - count], device=GPU, dtype=torch.long)
        cache.keys.flatten(0, 1)[before], cache.values.flatten(0, 1)[before] = keys[number][: len(before)], values[number][: len(before)]
    places, place = {}, 0
    for number in order:
        places[number], place = place, place + new[number]
    query = torch.randn(place, heads, key_dim, device=GPU).to(dtype)
    stored = torch.tensor([slot for number in order for slot in slots[number][ends[number] - new[number] :]], device=GPU)
    width = max(len(tables[number]) for number in range(len(lengths)))
    rows = Rows(
        torch.tensor([places[number] for number in range(len(lengths))], device=GPU),
        None,
        torch.tensor([tables[number] + [0] * (width - len(tables[number])) for number in range(len(lengths))], device=GPU),
        torch.tensor(lengths, device=GPU),
        torch.tensor([width], device=GPU),
    )
    prompts = tuple(
        PromptRow(places[number], places[number] + count, start, start + count, torch.tensor([tables[number]], device=GPU))
        for number, (start, count) in enumerate(chunks, len(lengths))
    )
    step, layer = CudaStep(), CudaBlockAttention(cache, heads, scale, window, Sums(16, GPU))
    # The last of several: what counts its parts is as it was before.
    for _ in range(3):
        step.begin(stored, rows, prompts, block_size)
        fresh_keys = torch.cat([keys[number][ends[number] - new[number] :] for number in order]).transpose(0, 1)
        fresh_values = torch.cat([values[number][ends[number] - new[number] :] for number in order]).transpose(0, 1)
        layer.store(step, fresh_keys, fresh_values)
        found = layer.attend(step, query.transpose(0, 1))
    for number, count in enumerate(new):
        mine = slice(places[number], places[number] + count)
        exact = wanted(query[mine], keys[number], values[number], scale, window)
        error = (found[mine].double() - exact).norm() / exact.norm()
        assert error <= ROUNDING[dtype], (number, ends[number], float(error))


# Whole models


def runner_for(model: nn.Module, blocks: int, rows: int = 16, *, record: bool = True) -> TorchRunner:
    """With all that is ours; without `record` with nothing but our attention."""
    dtype = next(model.parameters()).dtype
    use_cuda(model, "auto" if record else "plain", Precision.FLOAT32, GPU)
    assert any(isinstance(part, RMSNorm) for part in model.modules()) is record
    assert any(isinstance(part, SharedLinear) for part in model.modules()) is record
    with torch.inference_mode():
        runner = TorchRunner(model, GPU, dtype, BLOCK)
        runner.allocate(blocks, rows)
        if record:
            runner.record()
    assert runner.attention.native
    return runner


def nothing_but_nan(runner: TorchRunner) -> None:
    with torch.inference_mode():
        for cache in runner.attention.caches:
            cache.keys.fill_(float("nan")), cache.values.fill_(float("nan"))


@pytest.mark.parametrize("record", [True, False])
@pytest.mark.parametrize("kind", TINY)
def test_tiny_models_answer_as_alone(kind: str, record: bool):
    """Against `generate` on a CPU; with steps that are replayed, and without."""
    reference = tiny_model(kind, "sdpa")
    prompts = random_prompts(40, 300, 60, seed=1)
    solos = solo_answers(reference, prompts, COUNT)
    runner = runner_for(tiny_model(kind, attention.NAME), 200, record=record)
    assert (runner._graphs is not None and runner._graphs.recorded) is record
    nothing_but_nan(runner)
    answers, _ = batched_answers(runner, prompts, COUNT, blocks=200, seed=2)
    assert_as_alone(compare(reference, solos, answers))


def test_under_preemption():
    reference = tiny_model("llama", "sdpa")
    prompts = random_prompts(30, 300, 40, seed=3)
    solos = solo_answers(reference, prompts, COUNT)
    answers, engine = batched_answers(runner_for(tiny_model("llama", attention.NAME), 14), prompts, COUNT, blocks=14, seed=4, shortest=24)
    assert engine.stats().preemptions > 20
    assert_as_alone(compare(reference, solos, answers))


def test_who_shares_a_beginning():
    reference = tiny_model("qwen2", "sdpa")
    beginnings = random_prompts(3, 300, 4 * BLOCK, seed=31)
    prompts = [beginnings[number % 3] + end for number, end in enumerate(random_prompts(30, 300, 12, seed=32))]
    solos = solo_answers(reference, prompts, 16)
    answers, engine = batched_answers(runner_for(tiny_model("qwen2", attention.NAME), 60), prompts, 16, blocks=60, seed=33)
    assert engine.stats().shared_tokens > 10 * BLOCK
    assert_as_alone(compare(reference, solos, answers))


def test_the_real_model_answers_as_alone():
    reference = smollm2("sdpa")
    prompts = random_prompts(12, 49_000, 60, seed=5)
    solos = solo_answers(reference, prompts, COUNT)
    answers, _ = batched_answers(runner_for(smollm2(attention.NAME), 200), prompts, COUNT, blocks=200, seed=6)
    assert_as_alone(compare(reference, solos, answers))


@pytest.mark.parametrize("rows", [1, 3, 16, 24])
@torch.inference_mode()
def test_a_replayed_step_is_the_models_own(rows: int):
    """Bit by bit, in bfloat16: drawn tokens too."""
    runner = runner_for(tiny_model("llama", attention.NAME).bfloat16(), 100, rows=24)
    assert runner._graphs is not None
    dice = torch.Generator().manual_seed(rows)
    params = SamplingParams(max_tokens=8, temperature=0.8)
    for step in range(20):
        batch = ScheduledBatch(
            tuple(
                ScheduledRow(
                    f"r{row}",
                    (int(torch.randint(300, (1,), generator=dice)),),
                    step,
                    tuple(range(4 * row, 4 * row + step // BLOCK + 1)),
                    True,
                    params if row % 2 else SamplingParams(max_tokens=8),
                    row,
                )
                for row in range(rows)
            )
        )
        assert runner._graphs.takes(batch)
        recorded = runner._graphs.run(batch)
        # Of as many rows as the graph has, or the library may take another product.
        width = next(width for width in runner._graphs._widths if width >= rows)
        if width == rows:
            graphs, runner._graphs = runner._graphs, None
            assert runner.run(batch) == recorded
            runner._graphs = graphs


@pytest.mark.parametrize("dtype", ROUNDING)
@torch.inference_mode()
def test_what_lies_between_products_is_computed_as_in_float64(dtype: torch.dtype):
    torch.manual_seed(2)
    inputs, weight = (torch.randn(1, 70, 5, 96, device=GPU) * 3).to(dtype)[:, :, 1:4], torch.randn(96, device=GPU).to(dtype)
    exact = inputs.double() * (inputs.double().square().mean(-1, keepdim=True) + 1e-5).rsqrt() * (weight.double() + 1)
    assert close(cuda_elementwise.rms_norm(inputs, weight, 1e-5, 1.0), exact)
    gate_up = (torch.randn(7, 2 * 1000, device=GPU) * 3).to(dtype)
    gate, up = gate_up.double().chunk(2, dim=-1)
    assert close(cuda_elementwise.silu_mul(gate_up), nn.functional.silu(gate) * up)
    states = torch.randn(1, 70, 6, 64, device=GPU).to(dtype).transpose(1, 2)
    cos, sin = torch.randn(2, 1, 70, 64, device=GPU).to(dtype)
    turned = torch.cat((-states[..., 32:], states[..., :32]), dim=-1).double()
    found = cuda_elementwise.rotary(states, cos, sin)
    assert close(found, states.double() * cos.double()[:, None] + turned * sin.double()[:, None])


def close(found: torch.Tensor, exact: torch.Tensor) -> bool:
    return found.shape == exact.shape and float((found.double() - exact).norm() / exact.norm()) <= ROUNDING[found.dtype]


def test_parts_of_a_model_become_one_call_each():
    model = tiny_model("llama", attention.NAME)
    use_cuda(model, "auto", Precision.FLOAT32, GPU)
    found = [type(part) for part in model.modules()]
    layers = model.config.num_hidden_layers
    assert (found.count(RMSNorm), found.count(GatedMLP), found.count(SharedLinear)) == (2 * layers + 1, layers, 3 * layers)


# Weights of 8 and 4 bits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("outs", "ins"), [(576, 1536), (1000, 72), (17, 4096), (49152, 576)])
@torch.inference_mode()
def test_narrow_weights_are_multiplied_as_what_they_are(outs: int, ins: int, bits: int, dtype: torch.dtype):
    torch.manual_seed(1)
    layer = nn.Linear(ins, outs, device=GPU, dtype=dtype)
    narrow = QuantizedLinear(layer, bits, GPU)
    weight = narrow.unpacked(0, outs)
    step = (layer.weight.float().amax(dim=1) - layer.weight.float().amin(dim=1)) / (2**bits - 1)
    assert (weight.float() - layer.weight.float()).abs().amax() <= 1.02 * float(step.max())
    for rows in (1, 2, 16, 17, 33, 64, 65, 200):
        inputs = torch.randn(2, rows, ins, device=GPU, dtype=dtype)[1]
        exact = linear(inputs.double(), weight.double(), layer.bias.double())
        found = narrow(inputs)
        assert found.shape == exact.shape
        assert (found.double() - exact).norm() <= ROUNDING[dtype] * exact.norm(), rows
        if rows <= 64:
            # Whoever else is there changes no bit.
            assert torch.equal(found[:1], narrow(inputs[:1]))


# Whole processes


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
@torch.inference_mode()
def test_narrow_weights_cost_little_of_the_real_model(quantization: str, tmp_path: Path):
    """A page is as likely as before, beside float32 on the same card. The file was made of int4's groups: that they come through unharmed
    shows what kernels do; what int4 costs of other weights is the bench's to say."""
    settings = parse_settings(["--model", str(smollm2_folder()), "--device", "cuda", "--quantization", quantization], {})
    loaded = loading.load(settings, Progress())
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    text = tokenizer.encode((Path(__file__).parents[3] / "ARCHITECTURE.md").read_text())[:1000]
    blocks = tuple(range(-(-len(text) // 16)))
    scores = []
    for place in range(0, len(text), 250):
        part = tuple(text[place : place + 250])
        rows = [ScheduledRow("t", part, place, blocks, True, SamplingParams(1), 0)]
        plan = replace(attention.plan_step(ScheduledBatch(tuple(rows)), 16, GPU), sampled=torch.arange(len(part), device=GPU))
        scores.append(loaded.runner._logits(plan).float())
    lost = nn.functional.cross_entropy(torch.cat(scores)[:-1], torch.tensor(text[1:], device=GPU))
    exact = nn.functional.cross_entropy(
        smollm2("sdpa").to(GPU)(torch.tensor([text], device=GPU)).logits[0, :-1], torch.tensor(text[1:], device=GPU)
    )
    rise = math.expm1(float(lost - exact))
    print(f"{quantization}: perplexity {100 * rise:+.2f} % beside float32, {torch.cuda.memory_allocated() / 2**20:.0f} MiB in use")
    assert rise <= {"none": 0.01, "int8": 0.02, "int4": 0.08}[quantization]


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
def test_a_served_model_answers(quantization: str, tmp_path: Path):
    arguments = ("--model", str(smollm2_folder()), "--served-model-name", "smollm2", "--device", "cuda", "--quantization", quantization)
    with running_runtime(tmp_path, *arguments) as runtime:
        runtime.wait_ready()
        body = {"model": "smollm2", "messages": MESSAGES, "temperature": 0, "max_tokens": COUNT}
        answer = httpx.post(f"{runtime.url}/v1/chat/completions", json=body, timeout=60).json()
        log = runtime.log
    # What 4 bits leave of so small a model names other towns.
    assert ("Paris" if quantization != "int4" else " ") in answer["choices"][0]["message"]["content"]
    assert "CUDA graphs" in log
    assert "WARNING" not in log, log


def test_what_a_process_takes_beside_weights_and_keys_is_what_an_estimate_counts(tmp_path: Path):
    """Context, recorded steps and work space of a server that has answered; the card is otherwise empty."""
    torch.cuda.empty_cache()
    before, _ = torch.cuda.mem_get_info()
    arguments = ("--model", str(smollm2_folder()), "--served-model-name", "smollm2", "--device", "cuda", "--kv-cache-memory", "1Gi")
    with running_runtime(tmp_path, *arguments) as runtime:
        runtime.wait_ready()
        body = {"model": "smollm2", "messages": [{"role": "user", "content": "word " * 1500}], "temperature": 0, "max_tokens": COUNT}
        assert httpx.post(f"{runtime.url}/v1/chat/completions", json=body, timeout=60).status_code == 200
        taken = before - torch.cuda.mem_get_info()[0]
    weights, keys = 135_000_000 * 2, 16 * 8192 * 30 * 2 * 3 * 64 * 2
    beside = taken - weights - min(keys, 2**30)
    print(f"{beside / 2**20:.0f} MiB beside weights, keys and values")
    assert beside <= fit.OVERHEAD_FLOOR["cuda"]


def test_answers_are_those_of_generate(tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    model = smollm2("sdpa").to("cuda")
    prompt = torch.tensor([prompt_ids(tokenizer, MESSAGES)], device="cuda")
    alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=COUNT)[0, prompt.shape[1] :]
    arguments = ("--model", str(smollm2_folder()), "--served-model-name", "smollm2", "--device", "cuda", "--dtype", "float32")
    with running_runtime(tmp_path, *arguments) as runtime:
        runtime.wait_ready()
        body = {"model": "smollm2", "messages": MESSAGES, "temperature": 0, "max_tokens": COUNT}
        answer = httpx.post(f"{runtime.url}/v1/chat/completions", json=body, timeout=60).json()
    assert answer["choices"][0]["message"]["content"] == tokenizer.decode(alone, skip_special_tokens=True)


def test_a_card_that_is_too_small(tmp_path: Path):
    """Somebody else holds all of it but 100 MB; the weights alone need more."""
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(free - 100 * 2**20, dtype=torch.uint8, device="cuda")
    with running_runtime(tmp_path, "--model", str(smollm2_folder()), "--device", "cuda") as runtime:
        assert runtime.wait_exit() == 15
        assert runtime.termination_line.startswith("GPUOutOfMemory: ")
        assert "maxNumSeqs" in runtime.termination_line
    assert held.is_cuda
