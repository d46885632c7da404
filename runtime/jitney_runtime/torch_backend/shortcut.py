"""Steps around the model's own Python: beside the recorded layers only an embedding, a table and the scores are computed.

What a decoder gives its first layer depends on a token's id, by the embedding, and on its position, such as the rotary embedding's cosines
and sines. The latter are kept in tables, which the model itself fills by a pass without layers. After the last layer come a norm and the
scores of the vocabulary. Nobody says that a model is like that: it is compared, bit by bit with the model's own scores, at the first such
step and at each of many more tokens, and a model that is not goes on as before.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable

import torch
from torch import nn

from jitney_runtime.torch_backend.attention import StepPlan
from jitney_runtime.torch_backend.tape import TRUSTED, Recordings

logger = logging.getLogger(__name__)

# Positions that are looked up in the model at once.
_AHEAD = 1024
# Rotary embeddings that tell the same of a position whatever others are in the step ("dynamic" and "longrope" look at the longest).
_FIXED = ("default", "linear", "llama3", "yarn")


class Shortcut:
    """One model's steps, on a CPU. Engine thread only, under inference_mode."""

    def __init__(self, model: nn.Module, recordings: Recordings, own: Callable[[StepPlan], torch.Tensor]) -> None:
        """`own`: the model's own scores of the step that has begun, [sampled, vocabulary]."""
        self.recordings = recordings
        self._model = model
        self._own = own
        self._embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
        self._vocabulary: nn.Module | None = model.get_output_embeddings()  # type: ignore[operator]
        fixed = all(getattr(module, "rope_type", "default") in _FIXED for module in model.modules())
        self._possible = fixed and self._vocabulary is not None and "logits_to_keep" in inspect.signature(model.forward).parameters
        places = getattr(model.config.get_text_config(), "max_position_embeddings", None)  # type: ignore[union-attr, operator]
        self._places = int(places or sys.maxsize)
        # [positions, dim] each, of the layers' inputs beside the states.
        self._tables: list[torch.Tensor] = []
        self._known = 0
        self._following: list[nn.Module] = []
        # The most tokens of a step that was compared.
        self.proven = 0

    def logits(self, plan: StepPlan, furthest: int) -> torch.Tensor:
        """[sampled, vocabulary] of the step that has begun, whose positions are less than `furthest`."""
        if not self._possible or not self.recordings.trusts(plan.places):
            return self._recorded(plan)
        if plan.places <= TRUSTED * self.proven:
            return self._short(plan) if self._knows(furthest) else self._recorded(plan)
        # No scores tell nothing.
        found = self._tried(plan, furthest) if len(plan.sampled) else None
        wanted = self._recorded(plan)
        if found is not None and torch.equal(found, wanted):
            self.proven = plan.places
        elif found is not None:
            self._give_up("the scores differ")
        return wanted

    def _tried(self, plan: StepPlan, furthest: int) -> torch.Tensor | None:
        """The first time, with parts of a model that may want something else."""
        try:
            return self._short(plan) if self._knows(furthest) else None
        except Exception as error:
            self._give_up(f"{type(error).__name__}: {error}")
            return None

    def _recorded(self, plan: StepPlan) -> torch.Tensor:
        self.recordings.begin(plan.places)
        try:
            return self._own(plan)
        finally:
            self.recordings.end()

    def _short(self, plan: StepPlan) -> torch.Tensor:
        at = plan.positions[0]
        inputs = [self._embedding(plan.ids), *(table.index_select(0, at)[None] for table in self._tables)]
        states = self.recordings.replay(inputs, plan.places)
        for module in self._following:
            states = module(states)
        if len(plan.sampled) < plan.places:
            states = states[:, plan.sampled]
        assert self._vocabulary is not None
        scores: torch.Tensor = self._vocabulary(states)[0]
        return scores

    def _knows(self, furthest: int) -> bool:
        """Whether the tables reach so far, after they were made to."""
        while self._known < furthest and self._possible:
            # No further than the model goes, which may have a table of its own.
            self._look_up(min(self._known + _AHEAD, max(furthest, self._places)))
        return self._possible

    def _look_up(self, until: int) -> None:
        positions = torch.arange(self._known, until)[None]

        def run() -> object:
            return self._model(input_ids=torch.zeros_like(positions), position_ids=positions, use_cache=False, logits_to_keep=1)

        seen = self.recordings.look(run)
        if any(tensor.dim() != 3 or tensor.shape[:2] != positions.shape for tensor in seen.given):
            self._give_up("its layers are given something else than numbers of a position")
            return
        self._tables = [torch.cat([*self._tables[place : place + 1], tensor[0]]) for place, tensor in enumerate(seen.given)]
        self._known, self._following = until, seen.following

    def _give_up(self, why: str) -> None:
        logger.info("only the layers of this model are replayed: %s", why)
        self._possible, self._tables = False, []
