"""A scheduled batch through a transformers model: one packed forward pass, logits only where a token is drawn."""

from __future__ import annotations

import inspect

import torch
from torch import nn

from jitney_runtime.engine.model_runner import ScheduledBatch
from jitney_runtime.errors import NotSupportedYet
from jitney_runtime.torch_backend.attention import PagedAttention, StepPlan, plan_step
from jitney_runtime.torch_backend.graphs import StepGraphs
from jitney_runtime.torch_backend.kv_cache import LayerShape
from jitney_runtime.torch_backend.sampler import sample
from jitney_runtime.torch_backend.shortcut import Shortcut
from jitney_runtime.torch_backend.tape import record_layers

_PROBE_TOKENS = 3
# What a layer may look back at. Others (chunked attention for one) reach us as plain calls and would be computed as full attention.
_LAYER_TYPES = {"full_attention", "sliding_attention"}

# Larger steps are not replayed: beside their kernels a model's Python is nothing, and their buffers are large.
_RECORDED_TOKENS = 1024


class TorchRunner:
    """Implements ModelRunner. Made where the model is loaded, used on the engine's thread only. `dtype` is that of keys and values."""

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype, block_size: int, kernel: str = "auto") -> None:
        self.model = model
        self.device = device
        self.dtype = dtype
        self.block_size = block_size
        self.kernel = kernel
        self.attention = PagedAttention()
        self.attention.attach(model)
        self._shortcut: Shortcut | None = None
        self._graphs: StepGraphs | None = None
        self._selects_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._probe()

    @property
    def vocabulary(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]

    @property
    def layer_shapes(self) -> list[LayerShape]:
        return self.attention.shapes

    @torch.inference_mode()
    def _probe(self) -> None:
        """One forward pass without a cache. Flags in a model's class can claim an attention interface that it ignores; calls cannot."""
        config = self.model.config.get_text_config()  # type: ignore[union-attr, operator]
        name = type(self.model).__name__
        ids = torch.zeros(1, _PROBE_TOKENS, dtype=torch.long, device=self.device)
        positions = torch.arange(_PROBE_TOKENS, device=self.device)[None, :]
        self.model(input_ids=ids, position_ids=positions, use_cache=False)
        layers = int(config.num_hidden_layers)
        calls = len(self.attention.shapes)
        if calls != layers:
            raise NotSupportedYet(
                f"{name} has {layers} layers and {calls} of them use transformers' attention interface: Jitney cannot serve it yet"
            )
        if unknown := sorted(set(getattr(config, "layer_types", None) or ()) - _LAYER_TYPES):
            raise NotSupportedYet(f"{name} has layers of the type {unknown[0]}: Jitney cannot serve it yet")

    def allocate(self, blocks: int, rows: int = 16, longest: int | None = None, tokens: int = 512) -> None:
        """Take the KV memory: `blocks` blocks in every layer, for steps of up to `rows` rows and `tokens` tokens whose sequences hold up to
        `longest` blocks. On a GPU one block more, whose content is nobody's."""
        spare = 1 if self.device.type == "cuda" else 0
        self.attention.allocate(blocks + spare, self.block_size, self.dtype, self.device, self.kernel, rows)
        if (pages := self.attention.pages) is not None:
            pages.reach(-1)
        if self.attention.native and self.device.type == "cpu":
            recordings = record_layers(self.model, self.attention.modules, min(max(rows, tokens), _RECORDED_TOKENS))
            self._shortcut = Shortcut(self.model, recordings, self._own) if recordings else None
        elif self.attention.native:
            self._graphs = StepGraphs(self._logits, rows, longest or blocks, blocks, self.block_size, self.device)

    def record(self) -> None:
        """Once it has run, and its kernels are warm: steps that can be replayed on this device are."""
        if self._graphs is not None:
            self._graphs.record()

    @torch.inference_mode()
    def run(self, batch: ScheduledBatch) -> list[int]:
        """One step; a token id per row of `batch.sampled`."""
        if self._graphs is not None and self._graphs.takes(batch):
            if (tokens := self._graphs.run(batch)) is not None:
                return tokens
        else:
            logits = self.forward(batch)
            if batch.sampled:
                return sample(logits, batch.sampled)
        if self.device.type == "cuda":
            # What the step took is counted as its own.
            torch.cuda.synchronize(self.device)
        return []

    def forward(self, batch: ScheduledBatch) -> torch.Tensor:
        """Logits [sampled rows, vocabulary]. Under inference_mode, which `run` enters."""
        pages = self.attention.pages
        if pages is not None and not pages.filled:
            # What lies before a row's new tokens was an earlier step's.
            pages.reach(max(max(row.blocks[row.start // self.block_size :]) for row in batch.rows))
        plan = plan_step(batch, self.block_size, self.device)
        if self._shortcut is None:
            return self._logits(plan)
        self.attention.begin(plan)
        return self._shortcut.logits(plan, max(row.end for row in batch.rows))

    def _logits(self, plan: StepPlan) -> torch.Tensor:
        """[sampled, vocabulary]."""
        self.attention.begin(plan)
        return self._own(plan)

    def _own(self, plan: StepPlan) -> torch.Tensor:
        """[sampled, vocabulary] by the model's own forward, of the step that has begun."""
        selected = {"logits_to_keep": plan.sampled} if self._selects_logits else {}
        logits: torch.Tensor = self.model(input_ids=plan.ids, position_ids=plan.positions, use_cache=False, **selected).logits[0]
        return logits if self._selects_logits else logits[plan.sampled]
