"""The main job without Kubernetes, root or Go: the front door of this machine, one launch, 16 chats at once.

Ends by itself and leaves no process and no file but the model in the cache.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from product import report
from product.client import SCRIPT, Chat
from test_model import model_folder

from cluster import ports
from cluster.progress import Step, say

UID = "smollm2"
# As a person types it in the checkout.
JITNEY = ".venv/bin/jitney"
CHECKOUT = Path(__file__).resolve().parents[1]
START_SECONDS, LAUNCH_SECONDS, CHAT_SECONDS, STOP_SECONDS = 60, 300, 300, 60


class Failed(Exception):
    """The demo cannot go on; one sentence, and the end of a log where there is one."""


def main() -> None:
    started = time.monotonic()
    launch = f"launch --model-engine transformers -n smollm2-instruct -u {UID} -s 0_135 -f pytorch -q none --model-path {model_folder()}"
    with tempfile.TemporaryDirectory(prefix="jitney-demo-") as folder, _front_door(Path(folder)) as url:
        _jitney(launch, url, LAUNCH_SECONDS)
        chats = _chats(url)
        print(f"\n{report.table(chats)}\n", flush=True)
        _jitney("list", url)
        _jitney(f"terminate --model-uid {UID}", url)
    say(f"the demo took {time.monotonic() - started:.0f} s; nothing of it runs any more")
    _show_usage(launch)
    if failed := [chat for chat in chats if chat.error]:
        raise Failed(f"{len(failed)} of {len(chats)} chats failed: {failed[0].error}")


@contextmanager
def _front_door(folder: Path) -> Iterator[str]:
    """`jitney local` with a state of its own, on a port that nobody uses: whatever else runs here is left alone. Its address."""
    port, log = ports.free(1)[0], folder / "log"
    url = f"http://127.0.0.1:{port}"
    command = ["local", "--port", str(port), "--state-dir", str(folder / "state")]
    print(f"$ {JITNEY} {shlex.join(command)} &", flush=True)
    with log.open("wb") as output:
        process = subprocess.Popen([_program(), *command], stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        with Step("the front door starts"):
            _wait_answers(process, url, log)
        yield url
    finally:
        # Its runtimes end with it, and it waits for them.
        process.terminate()
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise Failed(f"the front door did not end within {STOP_SECONDS} s:\n{_end(log)}") from None
    if code:
        raise Failed(f"the front door ended with {code}:\n{_end(log)}")


def _wait_answers(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    # No proxy leads to this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            with opener.open(f"{url}/readyz", timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise Failed(f"the front door does not answer at {url}:\n{_end(log)}")


def _jitney(words: str, url: str, seconds: float = 60) -> None:
    """A command of the command line, with what it prints."""
    print(f"$ {JITNEY} {words}", flush=True)
    command = [_program(), *shlex.split(words), "-e", url]
    try:
        done = subprocess.run(command, check=False, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise Failed(f"`{JITNEY} {words}` was not done after {seconds:.0f} s") from None
    if done.returncode:
        raise Failed(f"`{JITNEY} {words}` ended with {done.returncode}")


def _chats(url: str) -> list[Chat]:
    """What the cluster's demo sends from a pod."""
    with Step("16 chats at once"):
        command = [sys.executable, str(SCRIPT), f"{url}/v1", UID]
        done = subprocess.run(command, check=False, timeout=CHAT_SECONDS, capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"the chats ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return sorted((Chat(**json.loads(line)) for line in done.stdout.splitlines()), key=lambda chat: chat.number)


def _show_usage(launch: str) -> None:
    print("\nThe same by hand, the first line in a terminal of its own:")
    for words in ("local", launch, f"chat --model-uid {UID}", "list", f"terminate --model-uid {UID}"):
        print(f"  {JITNEY} {words}")
    sys.stdout.flush()


def _program() -> str:
    return str(Path(sys.executable).with_name("jitney"))


def _end(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


if __name__ == "__main__":
    os.chdir(CHECKOUT)
    try:
        main()
    except (Failed, TimeoutError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
