"""`make demo`'s own path, once: it ends with 16 answered chats and the resource Ready."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import httpx
from product import resource

from cluster import target
from cluster.images import REPOSITORY
from cluster.kubectl import Kubectl


def test_demo_ends_with_sixteen_answers_and_a_ready_resource(kubectl: Kubectl) -> None:
    started = time.monotonic()
    done = subprocess.run([sys.executable, "e2e/demo.py"], cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False)
    print(done.stdout, f"{time.monotonic() - started:.0f} s", sep="\n")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "16 of 16 chats answered" in done.stdout
    assert resource.State.of(kubectl.get("mdep", "smollm2") or {}).is_ready
    last = done.stdout.strip().splitlines()[-1].split()
    assert last[0] == "smollm2"
    assert "1/1" in last


def test_the_service_that_the_demo_left_answers(kubectl: Kubectl) -> None:
    """The curl line that it prints; runs after it, on what it left."""
    body = json.dumps({"model": "smollm2", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8})
    service = kubectl.get("service", "smollm2") or {}
    assert service["spec"]["ports"][0]["port"] == 80
    if target.chosen().kind == "local":
        address = f"http://{service['spec']['clusterIP']}/v1/chat/completions"
        answer = httpx.post(address, content=body, headers={"Content-Type": "application/json"}, timeout=60).json()
        assert answer["choices"][0]["message"]["content"]
    kubectl("delete", "mdep", "smollm2", "--timeout=120s")
