"""`python -m bench.engine.gpu`: the runtime on this machine's GPU beside `transformers serve` and, where it is installed, vLLM.

Of two models: the small test model, and one of a billion and a half weights with the shape of Qwen2.5-1.5B and random numbers in it, which
is made on the spot. Prints and writes one page with the card's name.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.engine import machine, results
from bench.engine.bench import ALONE, TOGETHER
from bench.engine.checks import Check
from bench.engine.fleet import Fleet
from bench.engine.model import model_folder
from bench.engine.permuted import permuted_folder
from bench.engine.processes import Refused
from bench.engine.progress import say, telling
from bench.engine.rounds import Compared, Work, compare
from bench.engine.rows.quality import MOST, TEXT
from bench.engine.servers import FLAGS, NAME, OURS, TRANSFORMERS, VLLM, Place, Server
from bench.engine.work import short
from bench.engine.worker import Worker, working

RESULTS = Path(__file__).resolve().parents[1] / "RESULTS-gpu.md"
SETTINGS = ("none", "int8", "int4")
MANY = Work("64 chats", lambda count: [short(number) for number in range(count)], 128, 64, 64)
WORKS = (TOGETHER, ALONE, MANY)
# Of every server's batch: each is started once, for the widest work.
ROWS = 64
CONTEXTS, BATCHES = (110, 1000), (1, 16)
# Qwen2.5-1.5B's own numbers.
SHAPE = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    # It is never to end an answer.
    "eos_token_id": 151935,
}


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.engine.gpu", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="counted rounds of each server (default %(default)s)")
    parser.add_argument("--models", type=lambda text: text.split(","), default=["small", "large"], help="of small, large (default: both)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the file that gets the table (default %(default)s)")
    asked = parser.parse_args()
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    head = f"Written by `make bench-gpu` on one {_card()}, {date} UTC. {machine.versions(())}. Rounds that count: {asked.rounds}."
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jitney-bench-gpu-") as scratch:
        parts = ["# The engine on a GPU", head]
        for part in _all(asked.models, Path(scratch), asked.rounds):
            parts.append(part)
            # A run that is broken off leaves what it has.
            asked.output.write_text("\n\n".join(parts) + "\n")
    print("\n\n".join(["", *parts, f"{time.monotonic() - begun:.0f} s"]))


def _all(models: list[str], scratch: Path, rounds: int) -> Iterator[str]:
    makers: dict[str, Callable[[Path], Path]] = {"small": lambda _: model_folder(), "large": _made}
    for name in models:
        yield from _measured(name, makers[name](scratch), scratch, rounds)


def _card() -> str:
    try:
        command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        sys.exit("error: nvidia-smi finds no GPU on this machine: `make bench-quick` measures the processor")


def _made(scratch: Path) -> Path:
    """The large model's folder. Random numbers take as long as others."""
    folder = scratch / "large"
    code = f"""
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
config = AutoConfig.for_model("qwen2", **{SHAPE!r}, dtype="bfloat16")
with torch.device("cuda"):
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
model.save_pretrained({str(folder)!r})
AutoTokenizer.from_pretrained({str(model_folder())!r}).save_pretrained({str(folder)!r})
"""
    with telling("making the large model"):
        subprocess.run([sys.executable, "-c", code], check=True, stdout=sys.stderr)
    return folder


def _measured(name: str, folder: Path, scratch: Path, rounds: int) -> Iterator[str]:
    title = {"small": "SmolLM2-135M", "large": "Qwen2.5-1.5B's shape, random weights"}[name]
    yield f"## {title}"
    fleet = Fleet(scratch / name)
    try:
        yield results.table(("work", "server", "tokens/s", "first token (median)", "ours none / it"), _speeds(fleet, folder, rounds))
    finally:
        fleet.close()
    # What narrow weights cost is judged on a model whose groups of weights are not the file's own.
    yield results.checks_table(_checks(name, permuted_folder() if name == "small" else folder, scratch))


def _speeds(fleet: Fleet, folder: Path, rounds: int) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    servers = [*(_ours(setting, folder) for setting in SETTINGS), _transformers(folder), *_vllm(folder)]
    sides = fleet.sides(servers, ROWS)
    for work in WORKS:
        found = compare(sides, work, rounds, fleet.refused)
        rows += [_row(work.name, server.name, found) for server in servers]
    return rows


def _row(work: str, server: str, found: Compared) -> tuple[str, ...]:
    if server in found.failed:
        return work, server, "-", found.failed[server], ""
    ratio = found.ratio(f"{OURS} none", server)
    return work, server, f"{found.speed(server):.0f}", f"{1000 * (found.first(server) or 0):.0f} ms", f"{ratio:.2f}x" if ratio else ""


def _ours(setting: str, folder: Path) -> Server:
    def command(place: Place) -> list[str]:
        made = [sys.executable, "-m", "jitney_runtime", "--model", str(folder), "--served-model-name", NAME, "--device", "cuda"]
        made += ["--port", str(place.port), "--termination-log", str(place.scratch / "termination")]
        return [*made, "--max-num-seqs", str(place.rows), "--max-model-len", str(place.window), *FLAGS[setting]]

    return Server(OURS, setting, command, "/readyz")


def _transformers(folder: Path) -> Server:
    """Of this project's own environment, which has what it needs."""

    def command(place: Place) -> list[str]:
        made = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(folder)]
        made += ["--continuous-batching", "--cb-block-size", "32", "--cb-num-blocks", str(place.rows * place.window // 32)]
        return [*made, "--host", "127.0.0.1", "--port", str(place.port), "--device", "cuda", "--dtype", "bfloat16"]

    return Server(TRANSFORMERS, "bf16", command, "/health", model=lambda: str(folder), ignores_eos=False)


def _vllm(folder: Path) -> list[Server]:
    if importlib.util.find_spec("vllm") is None:
        return []

    def command(place: Place) -> list[str]:
        made = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--served-model-name", NAME]
        made += ["--host", "127.0.0.1", "--port", str(place.port), "--dtype", "bfloat16", "--gpu-memory-utilization", "0.3"]
        return [*made, "--max-num-seqs", str(place.rows), "--max-model-len", str(place.window)]

    return [Server(VLLM, "bf16", command, "/health", begins_in=600)]


def _checks(name: str, folder: Path, scratch: Path) -> list[Check]:
    """In process: steps beside the time that reading all weights once takes, and what narrow weights cost of the answers."""
    checks: list[Check] = []
    exact: dict[str, Any] | None = None
    settings = [*(("none, float32", ("--dtype", "float32")),) * (name == "small"), *((setting, FLAGS[setting]) for setting in SETTINGS)]
    for setting, flags in settings:
        what = f"{OURS} {setting}"
        try:
            with working(f"gpu-{name}-{len(checks)}", folder, scratch, "--max-model-len", "2048", "--device", "cuda", *flags) as worker:
                if setting != "none, float32":
                    checks += _steps(what, worker)
                if name == "small":
                    with telling(f"the text by {what}"):
                        found = worker.ask("text", text=TEXT.read_text(), rows=16)
                    exact = exact or found
                    checks.append(_lost(setting, found, exact))
        except Refused as error:
            checks.append(Check(name, what, None, "", note=str(error)))
    return checks


def _steps(what: str, worker: Worker) -> list[Check]:
    floor = worker.ask("reading")
    checks = [Check("", f"{what}: reading all weights once", 1000 * floor, "ms")]
    for context in CONTEXTS:
        for rows in BATCHES:
            with telling(f"{what}: steps of {rows} rows at {context} tokens"):
                seconds = worker.ask("decode", rows=rows, context=context)
            note = f"{rows / seconds:.0f} tokens/s, {seconds / floor:.1f}x the reading of the weights"
            checks.append(Check("", f"{what}: a step of {rows} rows at {context} tokens", 1000 * seconds, "ms", note=note))
            say(f"  {1000 * seconds:.2f} ms")
    return checks


def _lost(setting: str, found: dict[str, Any], exact: dict[str, Any]) -> Check:
    rise = 100 * math.expm1(found["lost"] / found["count"] - exact["lost"] / exact["count"])
    same = sum(one == other for one, other in zip(found["best"], exact["best"], strict=True)) / found["count"]
    note = f"perplexity {math.exp(found['lost'] / found['count']):.3f}, {100 * same:.1f} % of the best tokens are float32's"
    return Check("", f"{OURS} {setting}: perplexity above float32", rise, "%", must=MOST.get(setting), most=True, note=note)


if __name__ == "__main__":
    main()
