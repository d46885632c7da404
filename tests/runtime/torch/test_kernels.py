"""The C kernels against torch in float64, each build of them that this CPU can run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu

from jitney_runtime.kernels import library
from jitney_runtime.torch_backend import cpu_kernels
from jitney_runtime.torch_backend.cpu_kernels import Format
from jitney_runtime.torch_backend.kv_cache import KVCache, LayerShape

BUILDS = [name for name, needed in library._BUILDS if needed <= library._cpu_flags()]


# Where there is none, the tests must fail and not be left out.
@pytest.fixture(params=BUILDS or [None], autouse=True)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each instruction set in turn, though the runtime would take the widest."""
    caches = (library.kernels, cpu_kernels.width)
    monkeypatch.setattr(library, "_build", lambda: request.param)
    for cached in caches:
        cached.cache_clear()
    yield request.param
    for cached in caches:
        cached.cache_clear()


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(found.double(), wanted.double(), rtol=tolerance, atol=tolerance * float(wanted.abs().max()))


def test_there_is_a_build_for_this_machine():
    """Every x86-64 server since 2013 has one; where this fails, the rest of this file would prove nothing."""
    assert BUILDS
    assert cpu_kernels.available()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("rows", "outs", "ins"), [(1, 576, 576), (2, 48, 1), (7, 49, 7), (16, 577, 191), (37, 960, 1536), (300, 1, 193)])
def test_linear(rows: int, outs: int, ins: int, bias: bool):
    torch.manual_seed(0)
    inputs, weight = torch.randn(rows, ins), torch.randn(outs, ins)
    shift = torch.randn(outs) if bias else None
    wanted = inputs.double() @ weight.double().T + (shift.double() if shift is not None else 0)
    assert close(cpu_kernels.linear(inputs, cpu_kernels.pack(weight), shift), wanted)


def as_kept(weight: torch.Tensor, form: Format) -> torch.Tensor:
    """What is left of a weight [outs, ins], in float64, by the words of each format and not by its code."""
    if form is Format.INT8:
        return _as_int8(weight)
    if form is not Format.INT4:
        return weight.bfloat16().double()
    parts = []
    for part in weight.split(32, dim=1):
        low = part.amin(dim=1, keepdim=True).bfloat16().float()
        scale = ((part.amax(dim=1, keepdim=True) - low) / 15).bfloat16().float()
        steps = torch.where(scale > 0, (part - low) / scale, 0).round().clamp(0, 15)
        parts.append(steps.double() * scale + low)
    return torch.cat(parts, dim=1)


def as_multiplied(inputs: torch.Tensor, form: Format) -> torch.Tensor:
    """The same of inputs [rows, ins]."""
    if form is Format.WIDENED:
        return inputs.double()
    if form is Format.BFLOAT16:
        return inputs.bfloat16().double()
    return torch.cat([_as_int8(part) for part in inputs.split(64 if form is Format.INT8 else 32, dim=1)], dim=1)


def _as_int8(rows: torch.Tensor) -> torch.Tensor:
    top = rows.abs().amax(dim=1, keepdim=True)
    return torch.where(top > 0, rows * (127 / top), 0).round().double() * (top / 127)


def _needs(form: Format) -> None:
    if not cpu_kernels.has(form):
        assert form is Format.BFLOAT16, "the only one that a build may lack"
        pytest.skip("this build's instructions multiply no bfloat16: weights of it are widened, which is another format here")


SMALLER = [form for form in Format if form is not Format.FLOAT32]


@pytest.mark.parametrize("form", SMALLER)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("rows", "outs", "ins"), [(1, 576, 576), (2, 48, 1), (7, 49, 7), (16, 577, 191), (37, 960, 1536), (300, 1, 193)])
def test_linear_of_smaller_weights(rows: int, outs: int, ins: int, bias: bool, form: Format):
    """Exact for what the format keeps. A number that lies between two steps may fall on either side, in one place of thousands."""
    _needs(form)
    torch.manual_seed(0)
    inputs, weight = torch.randn(rows, ins), torch.randn(outs, ins)
    inputs[0], weight[0] = 0, 0
    inputs[-1] *= 1000
    shift = torch.randn(outs) if bias else None
    wanted = as_multiplied(inputs, form) @ as_kept(weight, form).T + (shift.double() if shift is not None else 0)
    found = cpu_kernels.linear(inputs, cpu_kernels.pack(weight, form), shift).double()
    off = (found - wanted).norm(dim=1) / wanted.norm(dim=1).clamp(min=1e-9)
    assert off.max() < 3e-3
    assert off.median() < 1e-4


@pytest.mark.parametrize("form", Format)
def test_no_rows_are_no_work(form: Format):
    _needs(form)
    packed = cpu_kernels.pack(torch.randn(7, 64), form)
    assert cpu_kernels.linear(torch.empty(1, 0, 64), packed, None).shape == (1, 0, 7)


@pytest.mark.parametrize("form", Format)
def test_a_row_of_linear_is_bitwise_the_same_in_any_company(form: Format):
    _needs(form)
    torch.manual_seed(0)
    inputs, weight = torch.randn(140, 700), torch.randn(100, 700)
    packed = cpu_kernels.pack(weight, form)
    alone = torch.cat([cpu_kernels.linear(row[None], packed, None) for row in inputs])
    for rows in (2, 3, 4, 5, 8, 9, 16, 31, 129, 140):
        assert torch.equal(cpu_kernels.linear(inputs[:rows], packed, None), alone[:rows])


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("spoil", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [3, 98])
def test_a_row_that_is_no_number_stays_none(place: int, spoil: float, form: Format):
    _needs(form)
    inputs = torch.randn(3, 99)
    inputs[1, place] = spoil
    found = cpu_kernels.linear(inputs, cpu_kernels.pack(torch.randn(50, 99), form), None)
    assert found.isfinite().all(dim=-1).tolist() == [True, False, True]
    assert not found[1].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floats_are_computed_as_float32(dtype: torch.dtype):
    """A model's own code may turn its states into the dtype of its embeddings."""
    inputs, weight = torch.randn(1, 3, 64).to(dtype), torch.randn(70, 64)
    packed, ones = cpu_kernels.pack(weight), torch.ones(64)
    assert torch.equal(cpu_kernels.linear(inputs, packed, None), cpu_kernels.linear(inputs.float(), packed, None))
    assert torch.equal(cpu_kernels.rms_norm(inputs, ones, 1e-6, 0.0), cpu_kernels.rms_norm(inputs.float(), ones, 1e-6, 0.0))


def test_a_large_weight_is_packed_in_parts():
    weight, inputs = torch.randn(cpu_kernels.ROWS_AT_ONCE + 70, 40), torch.randn(2, 40)
    for form in Format:
        if cpu_kernels.has(form):
            whole = cpu_kernels.linear(inputs, cpu_kernels.pack(weight, form), None)
            parts = [cpu_kernels.linear(inputs, cpu_kernels.pack(part, form), None) for part in weight.split(480)]
            assert torch.equal(whole, torch.cat(parts, dim=-1))


def test_smaller_weights_take_less_memory():
    weight = torch.randn(4800, 1920)
    taken = {form: len(cpu_kernels.pack(weight, form).data) / weight.nbytes for form in Format if cpu_kernels.has(form)}
    assert taken.pop(Format.FLOAT32) == 1
    assert taken.pop(Format.INT4) < 0.16
    assert taken.pop(Format.INT8) < 0.26
    assert set(taken.values()) == {0.5}


def test_linear_takes_any_layout_and_any_threads(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    inputs, weight = torch.randn(1, 40, 5), torch.randn(60, 40)
    packed = cpu_kernels.pack(weight)
    wanted = (inputs.transpose(1, 2) @ weight.T).double()
    for threads in (1, 2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert close(cpu_kernels.linear(inputs.transpose(1, 2), packed, None), wanted)


def test_callers_at_the_same_time_do_not_meet():
    """Only one has the helpers; the others go without."""
    torch.manual_seed(0)
    weights = [torch.randn(700, 300) for _ in range(4)]
    packed = [cpu_kernels.pack(weight) for weight in weights]
    inputs = torch.randn(5, 300)
    wanted = [cpu_kernels.linear(inputs, one, None) for one in packed]

    def call(number: int) -> bool:
        return all(torch.equal(cpu_kernels.linear(inputs, packed[number], None), wanted[number]) for _ in range(300))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(4)))


@pytest.mark.parametrize(("offset", "dim"), list(itertools.product((0.0, 1.0), (16, 24, 576))))
def test_rms_norm(offset: float, dim: int):
    torch.manual_seed(0)
    inputs, weight = torch.randn(1, 50, dim) * 3, torch.randn(dim)
    wanted = rms_norm(inputs.double(), (dim,), weight.double() + offset, 1e-6)
    assert close(cpu_kernels.rms_norm(inputs, weight, 1e-6, offset), wanted)


def test_rms_norm_of_heads_that_lie_apart():
    torch.manual_seed(0)
    inputs, weight = torch.randn(1, 5, 7 * 24)[..., 24:].view(1, 5, 6, 24), torch.randn(24)
    wanted = rms_norm(inputs.double(), (24,), weight.double(), 1e-6)
    assert close(cpu_kernels.rms_norm(inputs, weight, 1e-6, 0.0), wanted)


@pytest.mark.parametrize("rows", [1, 40])
def test_silu_mul_at_every_size_of_gate(rows: int):
    torch.manual_seed(0)
    gate_up = torch.randn(rows, 96) * 5
    gate_up[0, :6] = torch.tensor([0.0, -0.0, 1000.0, -1000.0, 87.5, -87.5])
    gate, up = gate_up.double().chunk(2, dim=-1)
    assert close(cpu_kernels.silu_mul(gate_up), silu(gate) * up, 2e-6)


@pytest.mark.parametrize(("tokens", "dim"), [(1, 16), (3, 24), (40, 64)])
def test_rotary(tokens: int, dim: int):
    torch.manual_seed(0)
    states = torch.randn(1, tokens, 5, dim).transpose(1, 2)
    angles = torch.randn(1, tokens, dim)
    cos, sin = angles.cos(), angles.sin()
    turned = torch.cat([-states[..., dim // 2 :], states[..., : dim // 2]], dim=-1)
    assert close(cpu_kernels.rotary(states, cos, sin), states * cos[:, None] + turned * sin[:, None])


def test_argmax_takes_the_first_of_equals_and_survives_nan():
    scores = torch.zeros(5, 37)
    scores[0, 36] = 1
    scores[1, [5, 20]] = 2
    scores[2] = float("-inf")
    scores[3] = float("nan")
    scores[4, 3], scores[4, 8] = float("nan"), 1
    assert cpu_kernels.argmax(scores) == [36, 5, 0, 0, 8]


def test_add():
    one, other = torch.randn(3, 17), torch.randn(3, 17)
    assert torch.equal(cpu_kernels.add(one, other), one + other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 5, 70])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "key_dim", "value_dim"),
    [(9, 3, 64, 64), (2, 2, 16, 32), (16, 1, 128, 256), (5, 1, 48, 80), (12, 2, 80, 48), (7, 1, 16, 16)],
)
def test_attention_over_scattered_blocks(heads: int, kv_heads: int, key_dim: int, value_dim: int, window: int | None, dtype: torch.dtype):
    """Rows of every length, their blocks in any order; all other places hold NaN."""
    torch.manual_seed(0)
    lengths, size = [1, 2, 15, 16, 17, 63, 64, 65, 200], {5: 100, 12: 5, 7: 48}.get(heads, 8)
    owned = [-(-length // size) for length in lengths]
    blocks = torch.randperm(sum(owned)).tolist()
    shape = LayerShape(kv_heads, key_dim, value_dim)
    assert cpu_kernels.serves(shape, heads, torch.float32, torch.device("cpu"))
    cache = KVCache([shape], sum(owned), size, dtype, torch.device("cpu")).layers[0]
    cache.keys.fill_(float("nan"))
    cache.values.fill_(float("nan"))
    attention, step = cpu_kernels.BlockAttention(cache, heads, 0.3, window), cpu_kernels.BlockStep()
    width = max(owned)
    tables, slots, keys, values, queries, wanted = [], [], [], [], [], []
    for length, count in zip(lengths, owned, strict=True):
        mine, blocks = blocks[:count], blocks[count:]
        key, value = (torch.randn(length, kv_heads, dim).to(dtype).float() for dim in (key_dim, value_dim))
        query = torch.randn(heads, key_dim)
        places = [mine[at // size] * size + at % size for at in range(length)]
        step.begin(torch.tensor(places[:-1]), torch.tensor([], dtype=torch.long), None, None)
        attention.store(step, key[:-1].transpose(0, 1), value[:-1].transpose(0, 1))
        seen = slice(max(0, length - window) if window else 0, length)
        args = (part.double().transpose(0, 1)[None] for part in (query[None], key[seen], value[seen]))
        wanted.append(scaled_dot_product_attention(*args, scale=0.3, enable_gqa=True)[0, :, 0])
        tables.append(mine + mine[:1] * (width - count))
        slots.append(places[-1])
        keys.append(key[-1])
        values.append(value[-1])
        queries.append(query)
    step.begin(torch.tensor(slots), None, torch.tensor(tables), torch.tensor(lengths))
    attention.store(step, torch.stack(keys).transpose(0, 1), torch.stack(values).transpose(0, 1))
    found = attention.attend(step, torch.stack(queries).transpose(0, 1))
    assert close(found, torch.stack(wanted))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 5, 70])
@pytest.mark.parametrize(("heads", "kv_heads", "key_dim", "value_dim"), [(9, 3, 64, 64), (2, 2, 16, 32), (16, 1, 128, 256), (5, 1, 16, 16)])
def test_attention_of_a_prompt_in_chunks(heads: int, kv_heads: int, key_dim: int, value_dim: int, window: int | None, dtype: torch.dtype):
    """Two prompts, cut anywhere, in turns and beside each other; all places that are not theirs hold NaN."""
    torch.manual_seed(0)
    size, shape, scale = 8, LayerShape(kv_heads, key_dim, value_dim), 0.3
    lengths = (200, 61)
    blocks = torch.randperm(40).tolist()
    tables = [blocks[:25], blocks[25:33]]
    cuts = {0: (0, 1, 3, 51, 52, 150, 200), 1: (0, 17, 33, 34, 35, 60, 61)}

    def answered(cuts: dict[int, tuple[int, ...]]) -> list[torch.Tensor]:
        cache = KVCache([shape], 40, size, dtype, torch.device("cpu")).layers[0]
        cache.keys.fill_(float("nan"))
        cache.values.fill_(float("nan"))
        attention, step = cpu_kernels.BlockAttention(cache, heads, scale, window), cpu_kernels.BlockStep()
        found: list[list[torch.Tensor]] = [[], []]
        for turn in range(max(map(len, cuts.values())) - 1):
            parts = [(each, *cuts[each][turn : turn + 2]) for each in cuts if turn + 1 < len(cuts[each])]
            slots = [tables[each][at // size] * size + at % size for each, start, end in parts for at in range(start, end)]
            places = itertools.pairwise(itertools.accumulate((end - start for _, start, end in parts), initial=0))
            chunks = [
                SimpleNamespace(first=first, last=last, start=start, table=torch.tensor([tables[each]]))
                for (first, last), (each, start, _) in zip(places, parts, strict=True)
            ]
            step.begin(torch.tensor(slots), torch.tensor([], dtype=torch.long), None, None, chunks)
            query, key, value = (
                torch.cat([given[each][name][start:end] for each, start, end in parts]).transpose(0, 1) for name in range(3)
            )
            attention.store(step, key, value)
            output = attention.attend(step, query)
            for chunk, (each, _, _) in zip(chunks, parts, strict=True):
                found[each].append(output[chunk.first : chunk.last])
        return [torch.cat(part) for part in found]

    given = [
        (torch.randn(length, heads, key_dim), *(torch.randn(length, kv_heads, dim).to(dtype).float() for dim in (key_dim, value_dim)))
        for length in lengths
    ]
    found = answered(cuts)
    # Where the CPU multiplies bfloat16, queries are rounded to it, and each weight is off by half of its last place at most.
    rounds = dtype is torch.bfloat16 and cpu_kernels.has(Format.BFLOAT16)
    for (query, key, value), output in zip(given, found, strict=True):
        behind = torch.arange(len(query))[:, None] - torch.arange(len(query))
        seen = (behind >= 0) & (behind < (window or len(query)))
        asked = (query * scale).bfloat16() if rounds else query.double() * scale

        def attended(of: torch.Tensor, asked: torch.Tensor = asked, key: torch.Tensor = key, seen: torch.Tensor = seen) -> torch.Tensor:
            args = (part.double().transpose(0, 1)[None] for part in (asked, key, of))
            return scaled_dot_product_attention(*args, attn_mask=seen, scale=1.0, enable_gqa=True)[0].transpose(0, 1)

        bound = attended(value.abs()) * 2.0**-8 if rounds else 0.0
        wanted = attended(value)
        assert bool(((output.double() - wanted).abs() <= bound + 1e-5 * float(wanted.abs().max())).all())
    whole = answered({0: (0, 200), 1: (0, 61)})
    assert all(torch.equal(one, other) for one, other in zip(found, whole, strict=True)), "bitwise the same however it is cut"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "window"), [(9, 3, None), (9, 3, 1500), (2, 2, None), (16, 1, 40)])
def test_the_end_of_a_long_prompt_in_chunks(heads: int, kv_heads: int, window: int | None, dtype: torch.dtype):
    """Longer than a span of keys (1,024): few queries are shared by span and joined, many are not, and both are the same to the bit."""
    torch.manual_seed(0)
    length, size, dim = 2100, 16, 32
    table = torch.randperm(150)[: -(-length // size)]
    slots = table[torch.arange(length) // size] * size + torch.arange(length) % size
    keys, values = (torch.randn(length, kv_heads, dim).to(dtype).float() for _ in range(2))
    queries = torch.randn(length, heads, dim)

    def answered(*places: int) -> torch.Tensor:
        cache = KVCache([LayerShape(kv_heads, dim, dim)], 150, size, dtype, torch.device("cpu")).layers[0]
        cache.keys.fill_(float("nan"))
        cache.values.fill_(float("nan"))
        attention, step, found = cpu_kernels.BlockAttention(cache, heads, 0.3, window), cpu_kernels.BlockStep(), []
        for start, end in itertools.pairwise((0, *places)):
            chunk = SimpleNamespace(first=0, last=end - start, start=start, table=table[None])
            step.begin(slots[start:end], torch.tensor([], dtype=torch.long), None, None, [chunk])
            attention.store(step, keys[start:end].transpose(0, 1), values[start:end].transpose(0, 1))
            found.append(attention.attend(step, queries[start:end].transpose(0, 1)))
        return torch.cat(found)

    cuts = (1000, 1020, 1030, 2040, 2050, 2055, 2060, 2076, 2077, length)
    with _threads(1):
        whole, alone = answered(length), answered(*cuts)
    with _threads(2):
        shared = answered(*cuts)
    assert torch.equal(whole, alone)
    assert torch.equal(whole, shared)
    seen = slice(max(0, length - window) if window else 0, length)
    args = (part.double().transpose(0, 1)[None] for part in (queries[-1:], keys[seen], values[seen]))
    wanted = scaled_dot_product_attention(*args, scale=0.3, enable_gqa=True)[0, :, 0]
    bound = 0.02 if dtype is torch.bfloat16 and cpu_kernels.has(Format.BFLOAT16) else 1e-5
    assert (whole[-1] - wanted).abs().max() < bound


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_a_single_block_is_as_wide_as_any():
    memory = KVCache([LayerShape(2, 32, 16)] * 2, 1, 4, torch.float32, torch.device("cpu"))
    assert {part.stride(0) for layer in memory.layers for part in (layer.keys, layer.values)} == {2 * 4 * 2 * (32 + 16)}


def test_what_is_stored_is_rounded_to_the_nearest():
    cache = KVCache([LayerShape(2, 16, 16)], 3, 4, torch.bfloat16, torch.device("cpu")).layers[0]
    attention, step = cpu_kernels.BlockAttention(cache, 2, 1.0, None), cpu_kernels.BlockStep()
    keys, values = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    keys[0, 0, :3] = torch.tensor([float("nan"), float("inf"), 1 + 2**-8])
    slots = torch.tensor([3, 0, 11, 6, 7])
    step.begin(slots, None, None, None)
    attention.store(step, keys, values)
    for kept, given in ((cache.keys, keys), (cache.values, values)):
        # In a block the kernels keep the places of one head side by side.
        places = kept.view(3, 2, 4, 16).transpose(1, 2).flatten(0, 1)
        assert torch.equal(places[slots].nan_to_num(-1), given.transpose(0, 1).bfloat16().nan_to_num(-1))


def test_attention_takes_only_what_it_can_compute():
    cpu = torch.device("cpu")
    assert not cpu_kernels.serves(LayerShape(2, 20, 20), 4, torch.float32, cpu)
    assert not cpu_kernels.serves(LayerShape(1, 64, 64), 17, torch.float32, cpu)
    assert not cpu_kernels.serves(LayerShape(2, 64, 64), 4, torch.bfloat16, cpu)
