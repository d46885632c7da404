"""One token per row from its logits. Random numbers depend on (seed, position) alone, so neighbours and preemption change nothing."""

from __future__ import annotations

import random

import torch

from jitney_runtime.engine.model_runner import ScheduledRow
from jitney_runtime.torch_backend import cpu_kernels

# A smaller temperature is 0 in float32, and 0/0 is no score. At this one only the best token is left anyway.
_COLDEST = 1e-30
# Weights that are summed at once. A power of two that divides most vocabularies.
_SPAN = 256
# So many of the likeliest tokens are put in order first, and so many where those are too few. Of 49,152 in 16 rows on two cores: 1.7 ms and
# 6 ms, and 34 ms all of them.
_WIDTHS = (256, 4096)


def sample(logits: torch.Tensor, rows: tuple[ScheduledRow, ...]) -> list[int]:
    """logits [rows, vocabulary] in any float type -> a token id per row."""
    free, bound = [place for place, row in enumerate(rows) if _is_free(row)], [place for place, row in enumerate(rows) if _is_bound(row)]
    if not free and not bound:
        return _best(logits)
    chosen = _best(logits) if len(free) + len(bound) < len(rows) else [0] * len(rows)
    for places, draw in ((free, _of_all), (bound, _of_the_likely)):
        if places:
            drawn = [rows[place] for place in places]
            for place, token in zip(places, draw(_weights(logits[places].float(), drawn), drawn), strict=True):
                chosen[place] = token
    return chosen


def _is_free(row: ScheduledRow) -> bool:
    """Whether it takes any token of the vocabulary, which saves to look for the best."""
    return not row.params.greedy and row.params.top_k == 0 and row.params.top_p >= 1.0


def _is_bound(row: ScheduledRow) -> bool:
    return not row.params.greedy and not _is_free(row)


def _best(logits: torch.Tensor) -> list[int]:
    if logits.device.type == "cpu" and logits.dtype is torch.float32 and logits.is_contiguous() and cpu_kernels.available():
        return cpu_kernels.argmax(logits)
    best: list[int] = logits.argmax(dim=-1).tolist()
    return best


def _weights(logits: torch.Tensor, rows: list[ScheduledRow]) -> torch.Tensor:
    """[rows, vocabulary], each row's sum 1."""
    temperatures = torch.tensor([max(row.params.temperature, _COLDEST) for row in rows], device=logits.device)[:, None]
    # Scores are taken relative to the best first: a tiny temperature then gives -inf, never an overflow.
    return ((logits - logits.amax(dim=-1, keepdim=True)) / temperatures).softmax(dim=-1)


def _of_all(weights: torch.Tensor, rows: list[ScheduledRow]) -> list[int]:
    """Inverse transform sampling in the order of the vocabulary: a span of it first, then a token of the span."""
    spans = torch.nn.functional.pad(weights, (0, -weights.shape[-1] % _SPAN)).view(len(rows), -1, _SPAN)
    sums = spans.sum(dim=-1).double()
    points = _points(rows, weights.device)
    span, rest = _reached(sums, points * sums.sum(dim=-1, keepdim=True))
    inside = spans.gather(1, span[:, :, None].expand(-1, -1, _SPAN)).squeeze(1).double()
    token, _ = _reached(inside, rest)
    chosen: list[int] = (span * _SPAN + token).squeeze(1).tolist()
    return chosen


def _of_the_likely(weights: torch.Tensor, rows: list[ScheduledRow], widths: tuple[int, ...] = _WIDTHS) -> list[int]:
    """Top-k, then top-p, then inverse transform sampling over what is left (Holtzman et al. 2020, arXiv:1904.09751). The order of a whole
    vocabulary takes as long as a step of a small model, and is asked for only where the first so many tokens are too few."""
    device, vocabulary = weights.device, weights.shape[-1]
    width = min(widths[0], vocabulary) if widths else vocabulary
    ordered, ids = weights.topk(width) if width < vocabulary else weights.sort(dim=-1, descending=True, stable=True)
    top_k = torch.tensor([min(row.params.top_k or vocabulary, vocabulary) for row in rows], device=device)[:, None]
    top_p = torch.tensor([row.params.top_p for row in rows], dtype=torch.float64, device=device)[:, None]
    ordered = ordered.double().masked_fill(torch.arange(width, device=device)[None, :] >= top_k, 0.0)
    reached = ordered.cumsum(dim=-1)
    # Of those that top-k leaves; where it leaves all, they are one, and where it leaves more than are looked at, it is not known.
    most = top_p * torch.where(top_k <= width, reached[:, -1:], 1.0)
    outside = reached - ordered >= most
    outside[:, 0] = False
    left = ordered.masked_fill(outside, 0.0)
    places, _ = _reached(left, _points(rows, device) * left.sum(dim=-1, keepdim=True))
    chosen: list[int] = ids.gather(1, places).squeeze(1).tolist()
    if width < vocabulary:
        enough = (top_k <= width) | (top_k >= vocabulary) & (reached[:, -1:] >= most)
        short = (~enough).squeeze(1).nonzero().squeeze(1).tolist()
        if short:
            longer = _of_the_likely(weights[short], [rows[place] for place in short], widths[1:])
            for place, token in zip(short, longer, strict=True):
                chosen[place] = token
    return chosen


def _reached(weights: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For weights [rows, n] and a point of each row's sum, [rows, 1]: the place that holds it, and how far into it the point is.

    Always a place with a weight above 0; a row of NaN has none, takes some place and leaves the other rows alone.
    """
    sums = weights.cumsum(dim=-1)
    last = ((weights > 0) * torch.arange(weights.shape[-1], device=weights.device)).amax(dim=-1, keepdim=True)
    places = torch.minimum(torch.searchsorted(sums, points, right=True), last)
    return places, points - (sums.gather(1, places) - weights.gather(1, places))


def _points(rows: list[ScheduledRow], device: torch.device) -> torch.Tensor:
    return torch.tensor([_uniform(row) for row in rows], dtype=torch.float64, device=device)[:, None]


def _uniform(row: ScheduledRow) -> float:
    """In [0, 1), from the request's seed and the position of the token to be drawn."""
    return random.Random(f"{row.seed}/{row.end}").random()
