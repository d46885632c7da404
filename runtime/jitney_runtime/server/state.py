"""What the server is doing, from its first second to its last. Event loop only, but for `progress`, which the loading thread writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jitney_runtime.engine.async_engine import AsyncEngine
from jitney_runtime.errors import EngineUnavailable, StartError
from jitney_runtime.progress import Progress
from jitney_runtime.server.metrics import Metrics
from jitney_runtime.settings import RuntimeSettings
from jitney_runtime.text.detokenizer import Stops
from jitney_runtime.text.tokenizer import Tokenizer, special_tokens


@dataclass(frozen=True)
class Serving:
    """A loaded model: its engine and its words."""

    engine: AsyncEngine
    tokenizer: Tokenizer

    @cached_property
    def _special_tokens(self) -> dict[str, int]:
        return special_tokens(self.tokenizer)

    def stops(self, settings: RuntimeSettings) -> Stops:
        """What ends every answer. No text shows a special token, so one that is given as a text is looked for by its id."""
        special = {self._special_tokens[text] for text in settings.stop if text in self._special_tokens}
        return Stops(settings.stop, special.union(settings.stop_token_ids))


@dataclass
class ServerState:
    """`draining`: readiness is off, requests are still taken. `refusing`: new ones get 503. `in_flight`: requests let in and not over.
    `lost` is called when the process that holds the model has ended and was not told to."""

    settings: RuntimeSettings
    metrics: Metrics
    progress: Progress = field(default_factory=Progress)
    serving: Serving | None = None
    failure: StartError | None = None
    draining: bool = False
    refusing: bool = False
    in_flight: int = 0
    lost: Callable[[StartError], None] = field(default=lambda error: None)

    def require(self) -> Serving:
        """The loaded model, or EngineUnavailable in words."""
        if self.serving is None:
            raise EngineUnavailable(f"the model is not ready yet: {self.progress.step.text}")
        return self.serving

    @property
    def alive(self) -> bool:
        return self.serving is None or self.serving.engine.alive

    def readiness(self) -> tuple[bool, dict[str, Any]]:
        if self.draining:
            return False, {"status": "draining"}
        if self.failure is not None:
            return False, {"status": "failed", "reason": self.failure.reason, "progress": str(self.failure)}
        if self.serving is None:
            step = self.progress.step
            return False, {"status": "starting", "reason": step.stage, "progress": step.text}
        if not self.serving.engine.alive:
            return False, {"status": "failed", "reason": "CrashLoop", "progress": "the engine has stopped"}
        return True, {"status": "ready"}
