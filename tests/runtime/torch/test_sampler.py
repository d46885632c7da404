"""Sampling: the right distribution, repeatable by seed, whoever the neighbours are."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
import torch

from jitney_runtime.engine.model_runner import ScheduledRow
from jitney_runtime.engine.sequence import SamplingParams
from jitney_runtime.torch_backend import sampler
from jitney_runtime.torch_backend.sampler import _uniform, sample

LOGITS = torch.log(torch.tensor([0.05, 0.5, 0.15, 0.3]))


def row(seed: int = 0, position: int = 10, **params: float) -> ScheduledRow:
    settings = SamplingParams(max_tokens=1, **({"temperature": 1.0} | params))  # type: ignore[arg-type]
    return ScheduledRow("s", (0,), position - 1, (0,), True, settings, seed)


def draws(count: int = 4000, **params: float) -> Counter[int]:
    rows = tuple(row(seed=number, **params) for number in range(count))
    return Counter(sample(LOGITS.expand(count, -1), rows))


def test_temperature_zero_takes_the_best():
    assert sample(LOGITS[None], (row(temperature=0.0),)) == [1]


def test_temperature_one_draws_from_the_distribution():
    found = draws()
    assert [found[token] / 4000 for token in range(4)] == pytest.approx([0.05, 0.5, 0.15, 0.3], abs=0.03)


def test_a_low_temperature_sharpens():
    assert draws(temperature=0.1)[1] > 3900


@pytest.mark.parametrize(("top_k", "allowed"), [(1, {1}), (2, {1, 3}), (3, {1, 2, 3}), (4, {0, 1, 2, 3}), (99, {0, 1, 2, 3})])
def test_top_k(top_k: int, allowed: set[int]):
    assert set(draws(top_k=top_k)) == allowed


@pytest.mark.parametrize(("top_p", "allowed"), [(0.01, {1}), (0.6, {1, 3}), (0.9, {1, 2, 3}), (1.0, {0, 1, 2, 3})])
def test_top_p(top_p: float, allowed: set[int]):
    assert set(draws(top_p=top_p)) == allowed


def test_a_seed_repeats_and_positions_differ():
    first = [sample(LOGITS[None], (row(seed=5, position=place),))[0] for place in range(50)]
    again = [sample(LOGITS[None], (row(seed=5, position=place),))[0] for place in range(50)]
    assert first == again
    assert len(set(first)) > 1


def test_neighbours_change_nothing():
    alone = [sample(LOGITS[None], (row(seed=seed),))[0] for seed in range(30)]
    mixed = torch.cat([LOGITS.expand(30, -1), LOGITS.flip(0)[None] * 3])
    assert sample(mixed, (*(row(seed=seed) for seed in range(30)), row(temperature=0.3, top_k=2)))[:30] == alone


@pytest.mark.parametrize("temperature", [1e-6, 1e-30, 1e-50, 5e-324, 2.0])
def test_extreme_temperatures_stay_finite(temperature: float):
    assert sample(torch.tensor([[1e4, -1e4, 0.0]]), (row(temperature=temperature),)) == [0]


@pytest.mark.parametrize("top_k", [2**31, 2**63, 10**30])
def test_a_top_k_of_any_size_keeps_every_token(top_k: int):
    assert set(draws(top_k=top_k)) == {0, 1, 2, 3}


def test_a_row_that_is_no_number_leaves_its_neighbours_alone():
    alone = sample(LOGITS[None], (row(seed=3),))
    broken = torch.full((1, 4), float("nan"))
    answer = sample(torch.cat([broken, LOGITS[None], broken]), (row(seed=1), row(seed=3), row(temperature=0.0)))
    assert answer[1:2] == alone
    assert all(0 <= token < 4 for token in answer)


def _vocabulary(rows: int, size: int, sharpness: float) -> torch.Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(size)) * sharpness


@pytest.mark.parametrize("size", [1, 255, 256, 257, 5000])
def test_every_token_of_a_vocabulary_of_any_size_has_its_share_of_the_points(size: int):
    """As one looks a point up in the sums over the whole vocabulary."""
    rows = tuple(row(seed=number) for number in range(64))
    logits = _vocabulary(64, size, 2.0)
    sums = logits.double().softmax(dim=-1).cumsum(dim=-1)
    points = torch.tensor([[_uniform(one)] for one in rows], dtype=torch.float64)
    # A point at the edge of a token's share may fall to its neighbour.
    edge = 1e-6
    least, most = (torch.searchsorted(sums, points + shift).squeeze(1) for shift in (-edge, edge))
    found = torch.tensor(sample(logits, rows))
    assert ((found >= least) & (found <= most.clamp(max=size - 1))).all()


@pytest.mark.parametrize(
    "limits",
    [
        {"top_p": 0.3},
        {"top_p": 0.9},
        {"top_p": 0.999},
        {"top_k": 50},
        {"top_k": 3000},
        {"top_k": 3000, "top_p": 0.95},
        {"top_k": 300, "top_p": 0.3},
        {"top_k": 5000, "top_p": 0.3},
    ],
)
@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_the_likeliest_few_are_drawn_from_as_from_the_whole_order(
    limits: dict[str, float], sharpness: float, monkeypatch: pytest.MonkeyPatch
):
    """Some rows need the first 256, some 4,096 and some all of 6,000."""
    rows = tuple(row(seed=number, temperature=0.2 + number / 32, **limits) for number in range(64))
    logits = _vocabulary(64, 6000, sharpness)
    found = sample(logits, rows)
    monkeypatch.setattr(sampler, "_of_the_likely", partial(sampler._of_the_likely, widths=()))
    assert found == sample(logits, rows)


def test_rows_of_all_kinds_share_a_step():
    kinds = ({"temperature": 0.0}, {}, {"top_p": 0.8}, {"top_k": 7})
    rows = tuple(row(seed=number, **kinds[number % 4]) for number in range(16))
    logits = _vocabulary(16, 3000, 2.0)
    assert sample(logits, rows) == [sample(logits[place : place + 1], (one,))[0] for place, one in enumerate(rows)]
