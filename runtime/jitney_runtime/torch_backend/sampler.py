"""One token per row from its logits. Random numbers depend on (seed, position) alone, so neighbours and preemption change nothing."""

from __future__ import annotations

import random

import torch

from jitney_runtime.engine.model_runner import ScheduledRow
from jitney_runtime.torch_backend import cpu_kernels

# A smaller temperature is 0 in float32, and 0/0 is no score. At this one only the best token is left anyway.
_COLDEST = 1e-30


def sample(logits: torch.Tensor, rows: tuple[ScheduledRow, ...]) -> list[int]:
    """logits [rows, vocabulary] in any float type -> a token id per row."""
    greedy = _best(logits)
    drawn = [place for place, row in enumerate(rows) if not row.params.greedy]
    if not drawn:
        return greedy
    chosen = _draw(logits[drawn].float(), [rows[place] for place in drawn])
    for place, token in zip(drawn, chosen, strict=True):
        greedy[place] = token
    return greedy


def _best(logits: torch.Tensor) -> list[int]:
    if logits.device.type == "cpu" and logits.dtype is torch.float32 and logits.is_contiguous() and cpu_kernels.available():
        return cpu_kernels.argmax(logits)
    best: list[int] = logits.argmax(dim=-1).tolist()
    return best


def _draw(logits: torch.Tensor, rows: list[ScheduledRow]) -> list[int]:
    """Temperature, then top-k, then top-p, then inverse transform sampling over what is left (Holtzman et al. 2020, arXiv:1904.09751)."""
    device = logits.device
    temperatures = torch.tensor([max(row.params.temperature, _COLDEST) for row in rows], device=device)[:, None]
    # Scores are taken relative to the best first: a tiny temperature then gives -inf, never an overflow.
    ordered, ids = ((logits - logits.amax(dim=-1, keepdim=True)) / temperatures).sort(dim=-1, descending=True, stable=True)
    vocabulary = logits.shape[-1]
    top_k = torch.tensor([min(row.params.top_k or vocabulary, vocabulary) for row in rows], device=device)[:, None]
    ordered = ordered.masked_fill(torch.arange(vocabulary, device=device)[None, :] >= top_k, float("-inf"))
    weights = ordered.softmax(dim=-1)
    top_p = torch.tensor([row.params.top_p for row in rows], device=device)[:, None]
    before = weights.cumsum(dim=-1) - weights
    outside = before >= top_p
    outside[:, 0] = False
    weights = weights.masked_fill(outside, 0.0)
    reached = weights.cumsum(dim=-1, dtype=torch.float64)
    points = torch.tensor([_uniform(row) for row in rows], dtype=torch.float64, device=device)[:, None] * reached[:, -1:]
    # A row of NaN has no weight above 0; it takes some token and leaves the other rows alone.
    last = ((weights > 0).sum(dim=-1, keepdim=True) - 1).clamp(min=0)
    places = torch.minimum(torch.searchsorted(reached, points, right=True), last)
    chosen: list[int] = ids.gather(1, places).squeeze(1).tolist()
    return chosen


def _uniform(row: ScheduledRow) -> float:
    """In [0, 1), from the request's seed and the position of the token to be drawn."""
    return random.Random(f"{row.seed}/{row.end}").random()
