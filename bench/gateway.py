"""The front door against the runtimes behind it: what it adds to a chat, what it costs, what it holds, and whom it leads where.

The cluster's own front door, told of its pods by a real API server, before real runtimes on this machine. Rounds straight to the runtime
and through the front door alternate, so that the machine's mood is in both. Straight is to the runtime's address, where a Service would
lead: kube-proxy's rules work in the kernel and put no process in between, so that against a Service as much would be found, or less.
Only the thousand streams that say nothing come from load equipment (`Silent`), because no runtime holds so many answers open; no row
about time or speed does.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn
from urllib.parse import urlsplit

import aiohttp
import httpx
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from cluster import binaries
from cluster.control_plane import ControlPlane
from support.gateway import Gateway, machine_address, running_gateway, tell_of
from support.models import save_tiny, smollm2_folder
from support.namespaces import Namespace, define
from support.process import RuntimeProcess, running_runtime

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "RESULTS-gateway.md"
# Questions to either side, one after the other, for the time to the first token.
QUESTIONS = 500
# Seconds that the front door may add to it.
MOST_P50, MOST_P99 = 0.002, 0.005
# Answers at the same time, tokens of each, and rounds of either side, for the throughput.
STREAMS, TOKENS, ROUNDS = 64, 64, 5
# Share of the tokens per second that may be lost.
MOST_LOST = 0.05
# Open answers that say nothing, and bytes of the front door's process with them.
IDLE, MOST_BYTES = 1000, 300 * 1000**2
# Chats with so many beginnings in all, at three replicas, and how many of them are under way at once.
REPLICAS, SHARING, BEGINNINGS, TOGETHER = 3, 1200, 60, 32
# Share of those with a beginning that was there before which must meet a replica that saw it, and requests of one replica to the mean.
LEAST_MET, MOST_LOAD = 0.90, 1.25
# Bounds in seconds: of a runtime's start and of one answer, of the rounds of the throughput, and of all.
STEP_SECONDS, ROUNDS_SECONDS, ALL_SECONDS = 120, 150, 480
# So many rounds of either side there must be.
LEAST_ROUNDS = 2


@dataclass(frozen=True)
class Row:
    """One promise and what was seen of it."""

    name: str
    straight: str
    through: str
    found: str
    most: str
    kept: bool


@dataclass(frozen=True)
class Side:
    """Where a chat is sent: `url` without the path."""

    name: str
    url: str
    model: str


def main() -> None:
    started = time.monotonic()
    # Both leave by way of the contexts, which end what was started.
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGALRM, _stop)
    signal.alarm(ALL_SECONDS)
    _allow_files()
    # Those of small models that are saved.
    transformers.utils.logging.disable_progress_bar()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jitney-bench-")))
        _say("starting an API server")
        binaries.build((binaries.KUBERNETES,))
        plane = stack.enter_context(ControlPlane(folder / "control-plane"))
        define(plane)
        namespace = Namespace(plane, "default")
        gateway = stack.enter_context(running_gateway(namespace, folder))
        rows: list[Row] = []
        for part in (_first_token, _throughput, _idle, _affinity):
            rows += (found := part(namespace, gateway, folder))
            for row in found:
                _say(f"  {row.name}: {row.found} ({'kept' if row.kept else 'MISSED'})")
    table, machine = _table(rows), _machine()
    print(f"\n{table}\n\n{machine}\n{time.monotonic() - started:.0f} s")
    _write(table, machine)
    if missed := [row.name for row in rows if not row.kept]:
        sys.exit(f"error: missed: {', '.join(missed)}")


def _stop(number: int, _: FrameType | None) -> NoReturn:
    # A second one would stop the contexts in the middle.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.alarm(0)
    sys.exit(f"error: not done after {ALL_SECONDS} s: end what else runs on this machine" if number == signal.SIGALRM else 143)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _allow_files() -> None:
    """Each idle stream has four ends here and two in the front door, which inherits the limit."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 6 * IDLE
    if most != resource.RLIM_INFINITY and most < wanted:
        sys.exit(f"error: {wanted} open files are needed and {most} allowed: raise the limit (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if most == resource.RLIM_INFINITY else most, most))


# Runtimes and where they are told of


@contextmanager
def _runtimes(folder: Path, name: str, models: list[Path], *flags: str) -> Iterator[list[RuntimeProcess]]:
    """One process for each folder of weights, ready. They listen on the machine's address: the API server takes no loopback for a pod's."""
    with ExitStack() as stack:
        found = []
        for number, model in enumerate(models):
            place = folder / f"{name}-{number}"
            place.mkdir()
            arguments = ["--model", str(model), "--served-model-name", name, "--host", "0.0.0.0", *flags]
            # Whoever asks second would find what the other side has had computed.
            found.append(stack.enter_context(running_runtime(place, *arguments, "--prefix-cache", "false")))
        for runtime in found:
            runtime.wait_ready(STEP_SECONDS)
        yield found


def _tell(namespace: Namespace, gateway: Gateway, name: str, ports: list[int]) -> Side:
    namespace.create(name, model="smollm2-instruct", size="0.135")
    for port in ports:
        tell_of(namespace, port, name)
    gateway.until(lambda: len(_replicas(gateway, name)) == len(ports))
    return Side("through", gateway.url, name)


def _replicas(gateway: Gateway, name: str) -> list[Any]:
    answer = httpx.get(f"{gateway.url}/v1/models/{name}/replicas")
    return list(answer.json()) if answer.status_code == 200 else []


def _port(runtime: RuntimeProcess) -> int:
    return urlsplit(runtime.url).port or 0


def _straight(runtime: RuntimeProcess, name: str) -> Side:
    """By the address that the front door uses."""
    return Side("straight", f"http://{machine_address()}:{_port(runtime)}", name)


# Chats


@dataclass(frozen=True)
class Heard:
    """What came of one answer, and when (seconds since it was asked for). Read after the clock has stopped."""

    pieces: tuple[tuple[float, bytes], ...]

    def first(self) -> float:
        """Seconds to the first token with any text."""
        before = b""
        for seconds, data in self.pieces:
            before += data
            if any(delta.get("content") for delta in _deltas(before)):
                return seconds
        raise SystemExit(f"error: an answer without a token: {before[-500:]!r}")

    def text(self) -> str:
        return "".join(delta.get("content") or "" for delta in _deltas(b"".join(data for _, data in self.pieces)))

    def tokens(self) -> int:
        usage = [event["usage"] for event in _events(b"".join(data for _, data in self.pieces)) if event.get("usage")]
        if not usage:
            raise SystemExit(f"error: an answer without its end: {self.pieces[-1:]!r}")
        return int(usage[-1]["completion_tokens"])


def _events(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(event[6:]) for event in data.split(b"\n\n")[:-1] if event.startswith(b"data: {")]


def _deltas(data: bytes) -> list[dict[str, Any]]:
    return [choice["delta"] for event in _events(data) for choice in event.get("choices", ())]


async def _chat(client: aiohttp.ClientSession, side: Side, messages: list[dict[str, str]], tokens: int) -> Heard:
    body = {"model": side.model, "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}
    data = json.dumps(body | {"stream_options": {"include_usage": True}}).encode()
    begun = time.perf_counter()
    async with client.post(f"{side.url}/v1/chat/completions", data=data, headers={"Content-Type": "application/json"}) as answer:
        if answer.status != 200:
            raise SystemExit(f"error: {side.name}: HTTP {answer.status}: {(await answer.text())[:500]}")
        return Heard(tuple([(time.perf_counter() - begun, data) async for data in answer.content.iter_any()]))


@asynccontextmanager
async def _client() -> AsyncIterator[aiohttp.ClientSession]:
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=STEP_SECONDS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as client:
        yield client


def _user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


# Time to the first token


def _first_token(namespace: Namespace, gateway: Gateway, folder: Path) -> list[Row]:
    """A tiny model answers in a few milliseconds, so that what is added is not lost in what the model takes."""
    _say("time to the first token: a runtime with a tiny random model, one chat at a time")
    tiny = save_tiny(folder / "tiny", vocab_size=49152)
    with _runtimes(folder, "first", [tiny]) as (runtime,):
        through = _tell(namespace, gateway, "first", [_port(runtime)])
        found = asyncio.run(_take_turns(_straight(runtime, "first"), through))
    rows = []
    for name, share, most in (("p50", 0.5, MOST_P50), ("p99", 0.99, MOST_P99)):
        before, after = (_percentile(found[side], share) for side in ("straight", "through"))
        added = after - before
        rows.append(Row(f"first token, {name}", _ms(before), _ms(after), f"+{_ms(added)}", f"+{_ms(most)}", added <= most))
    return rows


async def _take_turns(*sides: Side) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {side.name: [] for side in sides}
    async with _client() as client:
        for number in range(-20, QUESTIONS):
            # Who is first changes, and both get the same question.
            for side in sides if number % 2 else reversed(sides):
                heard = await _chat(client, side, _user(f"{number}. Hello there!"), 4)
                if number >= 0:
                    found[side.name].append(heard.first())
            if number % 100 == 99:
                _say(f"  {number + 1} of {QUESTIONS} pairs")
    return found


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


# Throughput


def _throughput(namespace: Namespace, gateway: Gateway, folder: Path) -> list[Row]:
    _say(f"throughput: {STREAMS} chats at once with the test model")
    flags = ("--max-num-seqs", str(STREAMS), "--max-model-len", "512")
    with _runtimes(folder, "speed", [smollm2_folder()], *flags) as (runtime,):
        sides = (_straight(runtime, "speed"), _tell(namespace, gateway, "speed", [_port(runtime)]))
        speeds: dict[str, list[float]] = {side.name: [] for side in sides}
        busy, tokens, end = 0.0, 0, time.monotonic() + ROUNDS_SECONDS
        for number in range(ROUNDS + 1):
            if number > LEAST_ROUNDS and time.monotonic() > end:
                break
            for side in sides if number % 2 else reversed(sides):
                before = _cpu_seconds(gateway)
                count, seconds = asyncio.run(_round(side, number))
                _say(f"  {f'round {number}' if number else 'warm-up'}, {side.name}: {count / seconds:.0f} tokens/s")
                if number:
                    speeds[side.name].append(count / seconds)
                    if side.name == "through":
                        busy, tokens = busy + _cpu_seconds(gateway) - before, tokens + count
    pairs = sorted(zip(speeds["straight"], speeds["through"], strict=True), key=lambda pair: pair[1] / pair[0])
    ratios = [after / before for before, after in pairs]
    lost = 1 - statistics.median(ratios)
    # Those of the round in the middle: what each side makes in another round has to do with the machine's mood.
    before, after = pairs[len(pairs) // 2]
    spread = f"{1 - ratios[-1]:.1%} to {1 - ratios[0]:.1%} by round"
    found = f"{lost:.1%} lost ({spread}), {1e6 * busy / tokens:.0f} µs of CPU a token"
    return [Row(f"tokens/s of {STREAMS} chats", f"{before:.0f}", f"{after:.0f}", found, f"{MOST_LOST:.0%} lost", lost <= MOST_LOST)]


async def _round(side: Side, number: int) -> tuple[int, float]:
    """Tokens of all, and seconds from the first question to the last answer's end. Every round has questions of its own, the same for
    either side."""
    async with _client() as client:
        begun = time.perf_counter()
        asked = [f"[{number}.{stream}] Write a long story about a bus, with many turns and no early end." for stream in range(STREAMS)]
        heard = await asyncio.gather(*(_chat(client, side, _user(text), TOKENS) for text in asked))
        seconds = time.perf_counter() - begun
    return sum(one.tokens() for one in heard), seconds


def _cpu_seconds(gateway: Gateway) -> float:
    fields = Path(f"/proc/{gateway.process.pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Streams that say nothing


OPENING = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'


class Silent:
    """Load equipment, not a runtime: begins a streamed answer with one event and then says nothing until it is told to end."""

    def __init__(self) -> None:
        self.open = 0
        self._over = asyncio.Event()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
        await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"%x\r\n%s\r\n" % (len(OPENING), OPENING))
        self.open += 1
        await self._over.wait()
        writer.write(b"0\r\n\r\n")
        writer.close()

    def end(self) -> None:
        self._over.set()


def _idle(namespace: Namespace, gateway: Gateway, _: Path) -> list[Row]:
    _say(f"{IDLE} open streams that say nothing")
    before, after = asyncio.run(_hold_open(namespace, gateway))
    each = (after - before) / IDLE / 1000
    return [
        Row(
            f"memory with {IDLE} idle streams",
            f"{before / 1e6:.0f} MB with none",
            f"{after / 1e6:.0f} MB",
            f"{each:.0f} kB each",
            f"{MOST_BYTES / 1e6:.0f} MB",
            after < MOST_BYTES,
        )
    ]


async def _hold_open(namespace: Namespace, gateway: Gateway) -> tuple[int, int]:
    """Bytes of the front door's process without and with them."""
    silent = Silent()
    server = await asyncio.start_server(silent.handle, "0.0.0.0", 0, backlog=IDLE)
    side = await asyncio.to_thread(_tell, namespace, gateway, "idle", [server.sockets[0].getsockname()[1]])
    before = _resident(gateway)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(_client())
        for start in range(0, IDLE, 50):
            asked = [{"model": side.model, "messages": _user(f"{number}"), "stream": True} for number in range(start, start + 50)]
            answers = await asyncio.gather(*(client.post(f"{side.url}/v1/chat/completions", json=body) for body in asked))
            for answer in answers:
                stack.push_async_callback(answer.wait_for_close)
                if await answer.content.readany() != OPENING:
                    raise SystemExit(f"error: an idle stream did not begin: HTTP {answer.status}")
        if silent.open != IDLE:
            raise SystemExit(f"error: {silent.open} of {IDLE} streams are open")
        await asyncio.sleep(2)
        after = _resident(gateway)
        silent.end()
    server.close()
    return before, after


def _resident(gateway: Gateway) -> int:
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


# Who gets what


def _affinity(namespace: Namespace, gateway: Gateway, folder: Path) -> list[Row]:
    """The replicas have different random weights, so that an answer tells who gave it: each is asked afterwards what it would have said."""
    _say(f"{SHARING} chats with {BEGINNINGS} beginnings at {REPLICAS} replicas")
    models = [save_tiny(folder / f"weights-{seed}", vocab_size=49152, max_position_embeddings=1024, seed=seed) for seed in range(REPLICAS)]
    # Alone and in company an answer is the same text.
    with _runtimes(folder, "sharing", models, "--dtype", "float32") as runtimes:
        through = _tell(namespace, gateway, "sharing", [_port(runtime) for runtime in runtimes])
        asked = _beginnings()
        given = asyncio.run(_ask_in_turn(through, [messages for _, messages in asked]))
        own = [asyncio.run(_ask_in_turn(_straight(runtime, "sharing"), [messages for _, messages in asked])) for runtime in runtimes]
    seen: set[tuple[int, int]] = set()
    first: dict[int, int] = {}
    loads, again, met, home = Counter[int](), 0, 0, 0
    for number, (beginning, _) in enumerate(asked):
        replica = _giver([answers[number] for answers in own], given[number])
        if any((beginning, other) in seen for other in range(REPLICAS)):
            again, met = again + 1, met + ((beginning, replica) in seen)
            home += first[beginning] == replica
        first.setdefault(beginning, replica)
        seen.add((beginning, replica))
        loads[replica] += 1
    share, load = met / again, max(loads.values()) * REPLICAS / SHARING
    shares = "/".join(str(loads[number]) for number in range(REPLICAS))
    # A full replica sends on to the next, which has seen the beginning from then on.
    met_row = Row("sees a beginning again", "", f"{met} of {again}", f"{share:.1%}", f"at least {LEAST_MET:.0%}", share >= LEAST_MET)
    home_row = Row("of them the one that saw it first", "", f"{home} of {again}", f"{home / again:.1%}", "", True)
    return [met_row, home_row, Row("most requests of one replica", "", shares, f"{load:.2f}x the mean", f"{MOST_LOAD}x", load <= MOST_LOAD)]


def _giver(own: list[str], given: str) -> int:
    """Whose answer it is."""
    found = [replica for replica, text in enumerate(own) if text == given]
    if len(found) != 1:
        raise SystemExit(f"error: {len(found)} of {REPLICAS} replicas would have said {given!r}, which was to tell them apart")
    return found[0]


def _beginnings() -> list[tuple[int, list[dict[str, str]]]]:
    """In the order in which they are asked: a beginning's number, and a chat of its own with it."""
    dice = random.Random(7)
    found = []
    for number in range(SHARING):
        beginning = dice.randrange(BEGINNINGS)
        system = f"You are assistant {beginning} of the bus company and you answer in one sentence. " * 5
        found.append((beginning, [{"role": "system", "content": system}, *_user(f"Question {number}?")]))
    return found


async def _ask_in_turn(side: Side, chats: list[list[dict[str, str]]]) -> list[str]:
    """The texts of their answers."""
    found, left = [""] * len(chats), iter(enumerate(chats))

    async def one_after_the_other(client: aiohttp.ClientSession) -> None:
        for number, messages in left:
            found[number] = (await _chat(client, side, messages, 8)).text()

    async with _client() as client:
        await asyncio.gather(*(one_after_the_other(client) for _ in range(TOGETHER)))
    return found


# What is printed and written


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _table(rows: list[Row]) -> str:
    lines = ["| | straight to the runtime | through the front door | found | must be within | |", "|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(f"| {row.name} | {row.straight} | {row.through} | {row.found} | {row.most} | {'kept' if row.kept else 'MISSED'} |")
    return "\n".join(lines)


def _write(table: str, machine: str) -> None:
    """A run that is broken off leaves the last one's."""
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    head = f"Written by `make bench-gateway`, {date} UTC. {machine}."
    what = "One front door before runtimes of this machine. Straight is to the runtime's own address; all is counted over the run."
    RESULTS.write_text("\n\n".join(("# The front door against the runtimes behind it", head, what, table)) + "\n")


def _machine() -> str:
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    command = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    versions = ", ".join(f"{name} {version(name)}" for name in ("jitney", "aiohttp", "starlette", "uvicorn"))
    load = "/".join(f"{one:.1f}" for one in os.getloadavg())
    model = names[0] if names else platform.processor()
    return f"{len(os.sched_getaffinity(0))} cores of {model}, Python {platform.python_version()}, {versions}, commit {commit}; load {load}"


if __name__ == "__main__":
    main()
