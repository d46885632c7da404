"""What Xinference answers, written down: installs that version, runs its local server with a tiny model, asks every call of
tests/support/calls.py, and writes each answer to a file. Run by `make record-xinference`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from cluster import ports
from cluster.binaries import cache_folder
from support.calls import asked, calls, launches
from support.models import save_damaged, save_endless, save_tiny

VERSION = "4.1.0"
RECORDINGS = Path(__file__).parent / f"xinference-{VERSION}"
# The newest transformers that it can be installed with: later ones want a newer click than it allows.
PACKAGES = (f"xinference=={VERSION}", "transformers==5.17.0", "torch==2.15.0", "accelerate>=1.10", "sentencepiece>=0.2")
START_SECONDS, CALL_SECONDS = 600, 600
# Of lists, for the first say what the others are like; of texts such as chat templates.
MOST_ELEMENTS, MOST_CHARACTERS = 8, 200
# Of these texts only that they are there is of use.
LEFT_OUT = ("chat_template", "model_description")
# What differs from run to run, by the name of its field.
NUMBERS = r"created|.*_ts|.*_at|uptime|.*_time|mem_.*|cpu_.*|usage|total|memory_.*"
TEXTS = {r"\d+\.\d+\.\d+\.\d+:\d+": "HOST:PORT", r"pid=\d+": "pid=PID", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}": "UUID"}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="jitney-record-") as scratch:
        tiny = save_tiny(Path(scratch) / "tiny", vocab_size=49152, max_position_embeddings=2048)
        endless, damaged = save_endless(Path(scratch) / "endless", tiny), save_damaged(Path(scratch) / "damaged", tiny)
        with running(installed(), Path(scratch)) as url:
            shutil.rmtree(RECORDINGS, ignore_errors=True)
            RECORDINGS.mkdir()
            for call in (*calls(tiny.as_uri()), *launches(endless.as_uri(), damaged.as_uri())):
                # A connection for each: after an error of its own that server closes it without a word.
                with httpx.Client(base_url=url, timeout=CALL_SECONDS, trust_env=False) as client:
                    found = asked(client, call)
                print(f"{found['status']} {call.method} {call.path}", flush=True)
                written = {
                    "method": call.method,
                    "path": call.path,
                    "body": call.body,
                    "status": found["status"],
                    "answer": normal(found["answer"]),
                }
                text = json.dumps(written, indent=2, ensure_ascii=False)
                for folder in (tiny, endless, damaged):
                    text = text.replace(str(folder), f"/models/{folder.name}")
                (RECORDINGS / f"{call.name}.json").write_text(text + "\n")
    print(f"{len(list(RECORDINGS.iterdir()))} answers in {RECORDINGS}")


def installed() -> Path:
    """The folder of its programs, in an environment of its own in the cache."""
    folder = cache_folder() / f"xinference-{VERSION}"
    if not (folder / "ready").exists():
        print(f"installing Xinference {VERSION} into {folder}", flush=True)
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True)
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), *PACKAGES], check=True)
        (folder / "ready").touch()
    return folder / "bin"


@contextmanager
def running(programs: Path, scratch: Path) -> Iterator[str]:
    """Its local server, offline, with a home of its own, at low priority; every process of it is gone afterwards."""
    port, log = ports.free(1)[0], scratch / "log"
    # Since 3.0 it asks for a key, and before each launch it makes an environment from the net, unless it is told not to.
    settings = {"XINFERENCE_HOME": str(scratch / "home"), "XINFERENCE_AUTH_ADVANCED": "0", "XINFERENCE_ENABLE_VIRTUAL_ENV": "0"}
    settings |= {"HF_HUB_OFFLINE": "1", "TMPDIR": str(scratch)}
    command = ["nice", str(programs / "xinference-local"), "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | settings, start_new_session=True, cwd=scratch)
    try:
        url, end = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
        while not answers(url):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < end, log.read_text()[-3000:]
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/cluster/auth", timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def normal(value: Any, name: str = "") -> Any:
    """Without what differs from run to run and from machine to machine, as the order of keys; every value stays of its kind."""
    if isinstance(value, dict):
        return {normal(key): normal(part, key) for key, part in sorted(value.items())}
    if isinstance(value, list):
        return [normal(part, name) for part in value[:MOST_ELEMENTS]]
    if isinstance(value, str):
        if name in LEFT_OUT:
            return "…"
        for found, instead in TEXTS.items():
            value = re.sub(found, instead, value)
        return value if len(value) <= MOST_CHARACTERS else f"{value[:MOST_CHARACTERS]}…"
    if type(value) in (int, float) and re.fullmatch(NUMBERS, name):
        return type(value)(0)
    return value


if __name__ == "__main__":
    main()
