"""Runs in a pod: sends chats to a Service and prints one JSON line per answer. Standard library only.

python chats.py URL MODEL '{"prompts": [...], "max_tokens": 48, "together": true, "seconds": 0}'

With `seconds` each prompt is asked again and again until they are over, or SIGTERM comes: a load that stays as it is. Chats under way are
finished.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import signal
import socket
import sys
import threading
import time
from urllib.parse import urlsplit

PROMPTS = [
    "What is the capital of France?",
    "Name three colours of the rainbow.",
    "Write one sentence about the sea.",
    "What does a baker do?",
    "Count from one to ten.",
    "What is the opposite of hot?",
    "Tell me a fact about the moon.",
    "Why do leaves fall in autumn?",
    "What is two plus two?",
    "Name an animal that can fly.",
    "Write a short greeting to a friend.",
    "What do bees make?",
    "Which planet is the largest?",
    "Give me a tip for sleeping well.",
    "What is bread made of?",
    "Describe a cat in one sentence.",
]


def chat(url: str, model: str, number: int, prompt: str, max_tokens: int) -> dict[str, object]:
    """One streaming chat. Seconds are counted from the moment of sending; an error is told, not raised."""
    started = time.time()
    result: dict[str, object] = {"number": number, "prompt": prompt, "started": started, "answer": "", "error": None}
    pieces: list[str] = []
    try:
        for event in _events(url, _body(model, prompt, max_tokens)):
            if "error" in event:
                raise ValueError(json.dumps(event["error"]))
            for choice in event.get("choices", []):
                if text := choice["delta"].get("content"):
                    result.setdefault("first_token", time.time() - started)
                    pieces.append(text)
                result["finish_reason"] = choice.get("finish_reason") or result.get("finish_reason")
            if usage := event.get("usage"):
                result["tokens"] = usage["completion_tokens"]
    except (OSError, ValueError, http.client.HTTPException) as error:
        result["error"] = f"{type(error).__name__}: {error}"
    return result | {"answer": "".join(pieces), "seconds": time.time() - started}


def _body(model: str, prompt: str, max_tokens: int) -> bytes:
    messages = [{"role": "user", "content": prompt}]
    options = {"temperature": 0, "max_tokens": max_tokens, "stream": True, "stream_options": {"include_usage": True}}
    return json.dumps({"model": model, "messages": messages} | options).encode()


def _events(url: str, body: bytes):
    target = urlsplit(url)
    connection = http.client.HTTPConnection(_address(str(target.hostname)), target.port or 80, timeout=300)
    connection.request("POST", f"{target.path}/chat/completions", body, {"Content-Type": "application/json", "Host": target.netloc})
    response = connection.getresponse()
    if response.status != 200:
        raise ValueError(f"HTTP {response.status} {response.read().decode(errors='replace')[:500]}")
    for line in response:
        data = line.decode().strip().removeprefix("data: ")
        if data == "[DONE]":
            connection.close()
            return
        if data.startswith("{"):
            yield json.loads(data)
    raise ValueError("the stream ended without [DONE]")


@functools.cache
def _address(host: str) -> str:
    """A lookup that is lost is tried again after five seconds: sixteen at once would not come at once."""
    return socket.gethostbyname(host)


def main(url: str, model: str, plan: dict[str, object]) -> None:
    prompts = plan.get("prompts") or PROMPTS
    lock = threading.Lock()

    with contextlib.suppress(OSError):
        _address(str(urlsplit(url).hostname))
    end = time.time() + float(plan.get("seconds", 0))
    enough = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: enough.set())

    def one(number: int, prompt: str) -> None:
        while True:
            answered = chat(url, model, number, prompt, int(plan.get("max_tokens", 48)))
            with lock:
                print(json.dumps(answered), flush=True)
            if time.time() >= end or enough.is_set():
                return
            if answered["error"]:
                time.sleep(0.5)

    threads = [threading.Thread(target=one, args=(number, prompt)) for number, prompt in enumerate(prompts, 1)]
    for thread in threads:
        thread.start()
        if not plan.get("together", True):
            thread.join()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})
