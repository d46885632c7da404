"""The engine without HTTP, in a process of its own, asked in lines of JSON: run as `python -m bench.engine.inprocess FLAGS`."""

from __future__ import annotations

import gc
import json
import os
import random
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from jitney_runtime.settings import RuntimeSettings, parse_settings

if TYPE_CHECKING:
    from jitney_runtime.engine.engine import Engine
    from jitney_runtime.torch_backend.loading import LoadedModel

# Steps that are timed, after those that warm up.
STEPS, BEFORE = 40, 8
# Passes through all linear layers.
PASSES = 40


def main() -> None:
    settings = parse_settings(sys.argv[1:], os.environ)
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    from jitney_runtime.torch_backend.threads import leave_cores_to_kernels

    leave_cores_to_kernels(settings.kernel, os.environ)
    from jitney_runtime.errors import StartError

    try:
        work = Work(settings)
    except StartError as error:
        print(json.dumps({"refused": f"{error.reason}: {error}"}), file=answers)
        return
    # As the server does.
    gc.collect()
    gc.freeze()
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        asked = json.loads(line)
        do: Callable[..., Any] = getattr(work, asked.pop("do"))
        print(json.dumps({"answer": do(**asked)}), file=answers)


class Work:
    """What can be asked. Every call leaves the engine idle."""

    def __init__(self, settings: RuntimeSettings) -> None:
        from jitney_runtime.engine.engine import Engine
        from jitney_runtime.progress import Progress
        from jitney_runtime.torch_backend.loading import load

        self._loaded: LoadedModel = load(settings, Progress())
        self._engine: Engine = Engine(self._loaded.scheduler, self._loaded.runner)
        self._count = 0

    def _add(self, prompt: list[int], tokens: int) -> str:
        from jitney_runtime.engine.sequence import SamplingParams, Sequence

        self._count += 1
        sequence = Sequence(f"bench-{self._count}", prompt, SamplingParams(max_tokens=tokens, ignore_eos=True))
        self._engine.add(sequence)
        return sequence.id

    def chats(self, chats: list[list[dict[str, str]]], tokens: int, at_once: int) -> dict[str, float]:
        """So many chats at once, the next when one has ended. Tokens in all, and seconds."""
        from jitney_runtime.text.chat import prompt_ids

        left = deque(prompt_ids(self._loaded.tokenizer, messages) for messages in chats)
        made, begun = 0, time.perf_counter()
        for _ in range(min(at_once, len(left))):
            self._add(left.popleft(), tokens)
        while self._engine.has_work:
            for output in self._engine.step().outputs:
                made += output.token is not None
                if output.finish_reason and left:
                    self._add(left.popleft(), tokens)
        return {"tokens": made, "seconds": time.perf_counter() - begun}

    def decode(self, rows: int, context: int) -> float:
        """Seconds of a step in which `rows` sequences get a token each, from `context` tokens on: the median."""
        dice = random.Random()
        ids = [self._add([dice.randrange(3, 40_000) for _ in range(context)], BEFORE + STEPS + rows * context) for _ in range(rows)]
        seconds: list[float] = []
        decoded = 0
        while decoded < BEFORE + STEPS:
            report = self._engine.step()
            if report.tokens == report.rows == rows:
                decoded += 1
                seconds.append(report.seconds)
        for one in ids:
            self._engine.abort(one)
        self._engine.step()
        return statistics.median(seconds[BEFORE:])

    def reading(self) -> float:
        """Seconds in which a GPU reads as many bytes as the weights of a step, by a measured copy that reads and writes."""
        import torch

        model = self._loaded.runner.model
        table = model.get_input_embeddings().weight  # type: ignore[operator]
        tied = getattr(model.get_output_embeddings(), "weight", None) is table  # type: ignore[operator]
        # A table that scores as well is read; one that only gives its rows is not.
        held = {tensor.data_ptr(): tensor.nbytes for module in model.modules() for tensor in _held(module)}
        total = sum(held.values()) - (0 if tied else table.nbytes)
        source = torch.empty(2**30, dtype=torch.uint8, device=table.device).random_()
        target = torch.empty_like(source)
        best = float("inf")
        for _ in range(10):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            target.copy_(source)
            torch.cuda.synchronize()
            best = min(best, time.perf_counter() - begun)
        return total / (2 * source.nbytes / best)

    def floor(self, rows: int) -> float:
        """Seconds that all linear layers take alone for `rows` rows, with the kernels in use: the median of passes.

        Each as often and in the order in which a step calls it. What can be recorded is replayed as the engine does it, without Python in
        between.
        """
        import torch

        layers = self._linear_layers()
        with torch.inference_mode():
            # A packed layer says what it reads, another one reads what its weight is.
            inputs = [torch.randn(1, rows, layer.in_features).to(getattr(layer, "dtype", None) or layer.weight.dtype) for layer in layers]

            def through() -> None:
                for layer, value in zip(layers, inputs, strict=True):
                    layer(value)

            ways = [through]
            if (replay := _recorded(through, rows)) is not None:
                ways.append(replay)
            return min(statistics.median(_seconds(way) for _ in range(PASSES)) for way in ways)

    def _linear_layers(self) -> list[Any]:
        """Of one step that is not replayed, seen by a hook: some stand behind others and are nobody's child."""
        import torch

        from jitney_runtime.torch_backend.linears import PackedLinear

        seen: list[Any] = []

        def look(module: torch.nn.Module, _: Any) -> None:
            if isinstance(module, (torch.nn.Linear, PackedLinear)):
                seen.append(module)

        runner = self._loaded.runner
        shortcut, runner._shortcut = runner._shortcut, None
        hook = torch.nn.modules.module.register_module_forward_pre_hook(look)
        try:
            self._add([1, 2, 3], 1)
            self._engine.step()
        finally:
            hook.remove()
            runner._shortcut = shortcut
        return seen

    def text(self, text: str, rows: int) -> dict[str, Any]:
        """The text in `rows` parts side by side, each token given and the next one judged: through the steps that decode, blocks and all.

        The sum of -log p of the tokens that follow, and the best token at each place. No part begins with another's end.
        """
        import torch

        from jitney_runtime.engine.model_runner import ScheduledBatch, ScheduledRow
        from jitney_runtime.engine.sequence import SamplingParams

        ids = self._loaded.tokenizer.encode(text)
        length = len(ids) // rows
        parts = [ids[row * length : (row + 1) * length] for row in range(rows)]
        size = self._loaded.runner.block_size
        width, params = -(-length // size), SamplingParams(max_tokens=1)
        if rows * width > self._loaded.scheduler.pool.count:
            raise ValueError(f"{rows} parts of {length} tokens do not fit into {self._loaded.scheduler.pool.count} blocks of {size}")
        lost, best = 0.0, []
        for place in range(length - 1):
            batch = tuple(
                ScheduledRow(
                    *(f"text-{row}", (part[place],), place, tuple(range(row * width, row * width + place // size + 1)), True, params, 0)
                )
                for row, part in enumerate(parts)
            )
            with torch.inference_mode():
                scores = self._loaded.runner.forward(ScheduledBatch(batch)).float().log_softmax(dim=-1)
                following = torch.tensor([part[place + 1] for part in parts], device=scores.device)
                lost -= scores.gather(1, following[:, None]).double().sum().item()
                best += scores.argmax(dim=-1).tolist()
        return {"lost": lost, "count": len(best), "best": best}

    def greedy(self, chats: list[list[dict[str, str]]], tokens: int) -> list[list[int]]:
        """Their answers, all in one batch or as many as there is room for."""
        from jitney_runtime.text.chat import prompt_ids

        answers: dict[str, list[int]] = {self._add(prompt_ids(self._loaded.tokenizer, messages), tokens): [] for messages in chats}
        while self._engine.has_work:
            for output in self._engine.step().outputs:
                if output.token is not None:
                    answers[output.sequence_id].append(output.token)
        return list(answers.values())


def _held(module: Any) -> list[Any]:
    """The tensors that a module itself computes with: parameters, narrow weights, and a product that stands for several layers."""
    found = list(module.parameters(recurse=False))
    packed = getattr(module, "packed", None)
    found += [tensor for tensor in packed or () if hasattr(tensor, "nbytes")]
    shared = getattr(module, "_shared", None)
    if shared is not None and getattr(module, "_place", None) == 0:
        found += _held(shared._product)
    return found


def _seconds(way: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    way()
    return time.perf_counter() - begun


def _recorded(through: Callable[[], None], rows: int) -> Callable[[], Any] | None:
    """The same kernels in one call of C; None where these are not the C kernels."""
    import torch

    from jitney_runtime.kernels.library import Call, kernels
    from jitney_runtime.torch_backend import cpu_kernels
    from jitney_runtime.torch_backend.recording import Memory, Tape

    library = kernels()
    if library is None:
        return None
    tape = Tape(Memory(rows), rows)
    cpu_kernels.record(tape)
    try:
        through()
    finally:
        cpu_kernels.record(None)
    if not tape.calls:
        return None
    calls = (Call * len(tape.calls))(*tape.calls)

    def replay(kept: Tape = tape) -> None:
        """`kept` holds the buffers."""
        library.jitney_replay(calls, len(calls), torch.get_num_threads())

    return replay


if __name__ == "__main__":
    main()
