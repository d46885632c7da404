"""Row 8: what HTTP, texts and events take of the engine's speed, with the load generator on the same cores."""

from __future__ import annotations

import statistics

from bench.engine import load
from bench.engine.bench import TOGETHER, Bench, Found
from bench.engine.checks import Check
from bench.engine.fleet import ROWS, awake
from bench.engine.load import Failed, Round
from bench.engine.model import model_folder
from bench.engine.processes import Refused
from bench.engine.progress import say, telling
from bench.engine.servers import NONE
from bench.engine.worker import working


def streaming(bench: Bench) -> Found:
    """Row 8. The same chats, in turns."""
    pairs: list[tuple[float, float]] = []
    sides = bench.fleet.sides([NONE])
    words = bench.fleet.refused.get(NONE.name, "")
    try:
        with working("engine-streaming", model_folder(), bench.scratch, "--max-model-len", "2048") as worker:
            for number in range(bench.rounds + 2 if sides else 0):
                with telling(f"streaming, {f'round {number}' if number else 'warm-up'}"):
                    chats = TOGETHER.chats(TOGETHER.count if number else TOGETHER.warm_up)
                    found = worker.ask("chats", chats=[chat.messages for chat in chats], tokens=chats[0].tokens, at_once=ROWS)
                    worker.held.hold()
                    with awake(sides[0]):
                        through = Round.of(load.answers(sides[0], TOGETHER.chats(len(chats)), ROWS))
                    worker.held.go_on()
                inside = found["tokens"] / found["seconds"]
                say(f"  {inside:.1f} tokens/s in the process, {through.speed:.1f} over HTTP")
                if number:
                    pairs.append((inside, through.speed))
    except (Refused, Failed) as error:
        words = str(error)
    lost = None
    if pairs and not words:
        lost = 100 * statistics.median(1 - through / inside for inside, through in pairs)
        alone, over = (statistics.median(speeds) for speeds in zip(*pairs, strict=True))
        words = f"{alone:.0f} tokens/s in the process, {over:.0f} over HTTP"
    return Found(
        [Check("8", "HTTP streaming to 16 clients: lost of the engine alone", lost, "%", must=8.0, aim=5.0, most=True, note=words)]
    )
