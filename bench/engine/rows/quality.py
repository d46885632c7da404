"""What a setting costs of the answers: perplexity on a fixed text, and how often the best token is that of fp32."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bench.engine import work
from bench.engine.bench import Bench, Found
from bench.engine.checks import Check
from bench.engine.fleet import ROWS
from bench.engine.permuted import permuted_folder
from bench.engine.processes import Refused
from bench.engine.progress import say, telling
from bench.engine.servers import FLAGS
from bench.engine.worker import working

# The Declaration of Independence and the Gettysburg Address, in the public domain.
TEXT = Path(__file__).parents[1] / "text.txt"
# Percent by which perplexity may rise.
MOST = {"int8": 2.0, "int4": 8.0}
SETTINGS = ("none", "int8", "int4")
# torch's own operators in float32.
EXACT = ("--dtype", "float32", "--kernel", "plain")
CHATS, TOKENS = 16, 64


def quality(bench: Bench) -> Found:
    """The default, which is bfloat16, and both quantizations against fp32, on the model whose groups are not the GGUF's."""
    bench.fleet.sides([])
    chats = [work.short(number).messages for number in range(CHATS)]
    checks: list[Check] = []
    try:
        exact = _asked(bench, "fp32", EXACT, chats)
    except Refused as error:
        return Found([Check("Q", "perplexity, fp32", None, "", must=0.0, note=str(error))])
    figures: dict[str, Any] = {"fp32": exact["perplexity"]}
    for setting in SETTINGS:
        what = f"perplexity, {setting}: percent above fp32"
        try:
            found = _asked(bench, setting, FLAGS[setting], chats)
        except Refused as error:
            checks.append(Check("Q", what, None, "%", must=MOST.get(setting), most=True, note=str(error)))
            continue
        rise = 100 * (found["perplexity"] / exact["perplexity"] - 1)
        note = f"{found['perplexity']:.3f}, fp32 {exact['perplexity']:.3f}, {exact['count']} tokens"
        checks.append(Check("Q", what, rise, "%", must=MOST.get(setting), most=True, note=note))
        best = _share(found["best"], exact["best"])
        answers = _share(found["answers"], exact["answers"])
        note = f"each place given the text; free answers of {TOKENS} tokens: {100 * answers:.1f} % at the same place"
        checks.append(Check("Q", f"best token equal to fp32's, {setting}", 100 * best, "%", note=note))
        figures[setting] = {"perplexity": found["perplexity"], "best": best, "answers": answers}
    return Found(checks, figures)


def _asked(bench: Bench, setting: str, flags: tuple[str, ...], chats: list[list[dict[str, str]]]) -> dict[str, Any]:
    name = f"quality-{setting}"
    with (
        working(name, permuted_folder(), bench.scratch, "--max-model-len", "2048", *flags) as worker,
        telling(f"the text and {CHATS} answers by {setting}"),
    ):
        found = worker.ask("text", text=TEXT.read_text(), rows=ROWS)
        answers = [token for answer in worker.ask("greedy", chats=chats, tokens=TOKENS) for token in answer]
    perplexity = math.exp(found["lost"] / found["count"])
    say(f"  {setting}: perplexity {perplexity:.3f}")
    return {"perplexity": perplexity, "count": found["count"], "best": found["best"], "answers": answers}


def _share(ones: list[int], others: list[int]) -> float:
    return sum(one == other for one, other in zip(ones, others, strict=True)) / len(ones)
