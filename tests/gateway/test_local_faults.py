"""`jitney local` where something goes wrong: with a launch, a process, the disk, or while it stops. Most runtimes here are stand-ins that
load nothing and do as they are told; the server is the real one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from jitney_gateway import failure
from jitney_gateway.catalogue import Catalogue, Entry
from jitney_gateway.errors import GatewayError
from jitney_gateway.fit import Verdict
from jitney_gateway.launch import Launch
from jitney_gateway.local import backend as backend_module
from jitney_gateway.local import backoff, memory, runtime
from jitney_gateway.local.backend import LocalBackend
from jitney_gateway.local.state import State
from jitney_gateway.machine import Machine
from jitney_gateway.model import LOADING, READY
from support import standin
from support.local import Local, running_local, until

ENGINE = {"model_engine": "transformers"}


def launched(local: Local, *, wait: bool = True, **body: Any) -> httpx.Response:
    return httpx.post(f"{local.url}/v1/models?wait_ready={str(wait).lower()}", json=ENGINE | body, timeout=60)


def listed(local: Local) -> dict[str, dict[str, Any]]:
    return {model["id"]: model for model in httpx.get(f"{local.url}/v1/models").json()["data"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def local(folder: Path) -> Iterator[Local]:
    environment = standin.install(folder / "standin", standin.READY)
    with running_local(folder / "state", JITNEY_API_KEY="secret", XINFERENCE_API_KEY="secret", HF_HOME="/hf", **environment) as local:
        yield local


def test_a_name_on_the_hub_needs_no_uid(local: Local):
    first, second = (launched(local, model_name="Qwen/Qwen2.5-0.5B-Instruct").json()["model_uid"] for _ in range(2))
    assert first == "Qwen2.5-0.5B-Instruct"
    assert second.startswith(f"{first}-")
    assert [listed(local)[uid]["status"] for uid in (first, second)] == ["READY", "READY"]
    assert "the stand-in listens" in httpx.get(f"{local.url}/v1/models/{first}/logs").text
    for uid in (first, second):
        assert httpx.delete(f"{local.url}/v1/models/{uid}").status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"model_name": "../x"}, "model_name: must be org/repo"),
        ({"model_name": "/tmp/x"}, "model_name: must be org/repo"),
        ({"model_name": "/tmp/.."}, "model_uid: without one"),
        ({"model_name": "x", "model_path": "hf://../x"}, "model_path: must be org/repo"),
        ({"model_name": "x", "model_path": "/" + "x" * 300}, "cannot be looked at: File name too long"),
        ({"model_name": "x", "model_path": "/", "revision": "main"}, "revision: pins a commit on the hub and means nothing for a folder"),
        ({"model_name": "a/b", "envs": {"JITNEY_HOST": "0.0.0.0"}}, "envs: JITNEY_HOST would change"),
        ({"model_name": "a/b", "replica": 33}, "replica: at most 32 are started on one machine"),
        ({"model_name": "qwen1.5-chat", "model_size_in_billions": 72, "replica": 32}, "for 32 replicas of"),
    ],
)
def test_what_is_refused_before_anything_starts(local: Local, body: dict[str, Any], said: str):
    refused = launched(local, wait=False, **body)
    assert refused.status_code in (400, 503)
    assert said in refused.json()["detail"]
    assert not listed(local)
    assert not local.runtimes()


def test_a_folder_that_cannot_be_looked_at_is_not_registered(local: Local):
    spec = {"model_format": "pytorch", "model_size_in_billions": 1, "quantization": "none", "model_uri": "file:///" + "x" * 300}
    family = {"model_name": "long", "model_specs": [spec]}
    refused = httpx.post(f"{local.url}/v1/model_registrations/LLM", json={"model": json.dumps(family)})
    assert (refused.status_code, "model_uri: " in refused.json()["detail"]) == (400, True)


def test_a_runtime_gets_nothing_of_the_servers_own(local: Local):
    assert launched(local, model_name="org/quiet").status_code == 200
    (pid,) = local.runtimes()
    surroundings = Path(f"/proc/{pid}/environ").read_text().split("\0")
    assert "HF_HOME=/hf" in surroundings
    assert not [line for line in surroundings if line.startswith(("JITNEY_", "XINFERENCE_"))]
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert httpx.post(f"{local.url}/v1/models/quiet/replicas", json={"replica": 32}).status_code == 400
    assert httpx.delete(f"{local.url}/v1/models/quiet").status_code == 200


def test_a_launch_that_cannot_be_kept_starts_nothing(local: Local, folder: Path):
    obstacle = folder / "state" / "models.new"
    obstacle.mkdir()
    try:
        refused = launched(local, wait=False, model_name="org/unkept")
        assert refused.status_code == 507
        assert "models.json cannot be written" in refused.json()["detail"]
        assert not listed(local)
        assert not local.runtimes()
    finally:
        obstacle.rmdir()
    assert launched(local, model_name="org/unkept").status_code == 200
    assert httpx.delete(f"{local.url}/v1/models/unkept").status_code == 200


# Ends as a runtime whose disk is full, once there is such a path.
FILLED = """
import sys, time
from pathlib import Path

while not Path({obstacle!r}).exists():
    time.sleep(0.05)
Path(sys.argv[sys.argv.index("--termination-log") + 1]).write_text("DiskFull: the disk is full")
sys.exit(13)
"""


def test_why_a_launch_failed_is_told_where_its_end_cannot_be_kept(local: Local, folder: Path, tmp_path: Path):
    obstacle = folder / "state" / "models.new"
    (tmp_path / "jitney_runtime.py").write_text(FILLED.format(obstacle=str(obstacle)))
    with ThreadPoolExecutor(1) as others:
        waiting = others.submit(launched, local, model_name="org/filled", envs={"PYTHONPATH": str(tmp_path)})
        until(lambda: "filled" in listed(local))
        obstacle.mkdir()
        try:
            failed = waiting.result(60)
        finally:
            obstacle.rmdir()
    assert (failed.status_code, failed.json()["detail"]) == (500, "DiskFull: the disk is full")
    assert listed(local)["filled"]["status"] == "ERROR"
    (line,) = [json.loads(line[line.index("{") :]) for line in local.log.splitlines() if '"why": "launch_failed"' in line]
    assert (line["model"], line["outcome"], line["status"]) == ("filled", "refused", 507)
    assert httpx.delete(f"{local.url}/v1/models/filled").status_code == 200


def test_a_folder_has_one_server(local: Local, folder: Path):
    command = [sys.executable, "-m", "jitney_gateway.cli", "local", "--port", "0", "--state-dir", str(folder / "state")]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 1
    assert "is in use by another `jitney local`" in second.stderr
    assert "Traceback" not in second.stderr


def test_no_model_is_started_where_the_port_is_taken(local: Local, tmp_path: Path):
    State(tmp_path).write({"before": Launch("org/before")})
    command = [sys.executable, "-m", "jitney_gateway.cli", "local", "--port", local.url.rpartition(":")[2], "--state-dir", str(tmp_path)]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert second.returncode == 1
    assert "address already in use" in second.stderr
    assert "Traceback" not in second.stderr
    assert not list((tmp_path / "logs").iterdir())


def test_it_stops_under_those_who_wait_and_lists_what_cannot_come_back(tmp_path: Path):
    environment, weights = standin.install(tmp_path / "standin", standin.STARTING), tmp_path / "weights"
    weights.mkdir()
    with running_local(tmp_path / "state", **environment) as local, ThreadPoolExecutor(2) as others:
        waiting = others.submit(launched, local, model_name="moved", model_path=str(weights))
        until(lambda: "moved" in listed(local))
        until(local.runtimes)
        asked = threading.Event()

        def follow() -> int:
            with httpx.stream("GET", f"{local.url}/v1/models/moved/logs?follow=true", timeout=60) as log:
                asked.set()
                log.read()
                return log.status_code

        following = others.submit(follow)
        assert asked.wait(60)
        local.process.terminate()
        assert "this front door is leaving" in waiting.result(60).json()["detail"]
        assert following.result(60) in (200, 503)
        assert local.process.wait(60) == 0
    weights.rmdir()
    with running_local(tmp_path / "state", **environment) as local:
        assert (listed(local)["moved"]["status"], listed(local)["moved"]["message"]) == (
            "ERROR",
            f"model_path: there is no folder {weights}",
        )
        assert launched(local, wait=False, model_name="org/other").status_code == 200
        assert set(json.loads((tmp_path / "state" / "models.json").read_text())["models"]) == {"moved", "other"}
        assert httpx.get(f"{local.url}/v1/models/moved/logs").status_code == 404
        assert httpx.delete(f"{local.url}/v1/models/moved").status_code == 200
        assert set(listed(local)) == {"other"}


def test_a_second_signal_waits_for_nobody(tmp_path: Path):
    with running_local(tmp_path / "state", DEAF="1", **standin.install(tmp_path / "standin", standin.READY)) as local:
        assert launched(local, model_name="org/deaf").status_code == 200
        (pid,) = local.runtimes()
        local.process.terminate()
        until(lambda: httpx.get(f"{local.url}/readyz").status_code == 503)
        assert Path(f"/proc/{pid}").exists()
        local.process.send_signal(signal.SIGINT)
        # Much sooner than a runtime is given to finish its answers.
        assert local.process.wait(backend_module.DRAIN_SECONDS / 2) == 0
        until(lambda: not Path(f"/proc/{pid}").exists())


# Without the server


@pytest.fixture
async def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalBackend]:
    monkeypatch.setattr(backoff, "FIRST", 0.05)
    monkeypatch.setattr(runtime, "DEAD_SECONDS", 0.5)
    backend = LocalBackend(tmp_path / "state", Catalogue.read())
    yield backend
    await backend.stop()


async def reached(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not look():
            await asyncio.sleep(0.02)


async def test_a_start_that_fails_again_and_again_is_told(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(failure, "PATIENCE", 0.5)
    monkeypatch.setattr(backend_module, "PERIOD", 0.1)
    uid = await backend.launch(Launch("org/crashes", envs={"PYTHONHOME": "/nowhere"}))
    with pytest.raises(GatewayError, match="the runtime ended with exit code 1") as told:
        await backend.ready(uid)
    assert (told.value.status, told.value.code) == (500, "launch_failed")


@pytest.mark.parametrize("replicas", [1, 2])
async def test_a_model_that_ends_when_the_server_does_is_waited_for(backend: LocalBackend, tmp_path: Path, replicas: int):
    """By whoever stops the server, although that ends the request that ended the model, or one replica of it."""
    deaf = standin.install(tmp_path / "standin", standin.READY) | {"DEAF": "1"}
    uid = await backend.launch(Launch("org/answers", envs=deaf, replicas=replicas))
    async with asyncio.timeout(30):
        await backend.ready(uid)
    ended, *others = backend._running[uid].runtimes
    request = asyncio.create_task(backend.remove_replica(uid, ended.id))
    await reached(lambda: ended._stopping)
    stopping = asyncio.create_task(backend.stop())
    for other in others:
        assert other.pid
        os.kill(other.pid, signal.SIGKILL)
    await reached(lambda: all(other.pid is None for other in others))
    request.cancel()
    await asyncio.wait({request, stopping}, timeout=1)
    assert (request.cancelled(), stopping.done()) == (True, False)
    assert ended.pid
    os.kill(ended.pid, signal.SIGKILL)
    await stopping


async def test_a_start_that_comes_further_than_the_one_that_failed_is_waited_for(backend: LocalBackend, tmp_path: Path):
    folder = tmp_path / "standin"
    uid = await backend.launch(Launch("org/slow", envs=standin.install(folder, standin.STARTING)))
    running = backend._running[uid]
    (process,) = running.runtimes
    await reached(lambda: process.message == "loading 10 %")
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    await reached(lambda: "exit code -9" in running.failing())
    await reached(lambda: process.message == "loading 10 %")
    assert running.failing()
    standin.say(folder, {**standin.STARTING, "/readyz": [503, {"status": "starting", "progress": "loading 50 %"}]})
    await reached(lambda: not running.failing())


async def test_what_the_machine_refuses_is_tried_again(backend: LocalBackend, tmp_path: Path):
    logs = tmp_path / "state" / "logs"
    logs.rmdir()
    uid = await backend.launch(Launch("org/later", envs=standin.install(tmp_path / "standin", standin.READY)))
    (process,) = backend._running[uid].runtimes
    await reached(lambda: "the runtime cannot be started" in process.message)
    assert process.status == LOADING
    assert [piece async for piece in await backend.log(uid, None, 10, False)] == []
    logs.mkdir()
    async with asyncio.timeout(30):
        await backend.ready(uid)
    assert not process.failure


async def test_a_word_that_no_command_can_hold_is_final(backend: LocalBackend):
    """A record may be written by hand."""
    uid = await backend.launch(Launch("org/zero", revision="v\0"))
    with pytest.raises(GatewayError, match="the runtime cannot be started: embedded null byte"):
        await backend.ready(uid)


async def test_a_dead_engine_is_started_again(backend: LocalBackend, tmp_path: Path):
    folder = tmp_path / "standin"
    uid = await backend.launch(Launch("org/dies", envs=standin.install(folder, {"/readyz": [200, ["no object"]]})))
    (process,) = backend._running[uid].runtimes
    await reached(lambda: "the stand-in listens" in (process.log.read_text() if process.log.exists() else ""))
    standin.say(folder, standin.READY)
    await reached(lambda: process.status == READY)
    before = process.pid
    standin.say(folder, standin.DEAD)
    await reached(lambda: (process.status, process.message) == (LOADING, "the engine has stopped"))
    await reached(lambda: "the engine has stopped; started again" in process.message)
    standin.say(folder, standin.READY)
    await reached(lambda: process.status == READY)
    assert process.pid not in (None, before)


async def test_what_ran_before_comes_back_whatever_is_free_now(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "available", lambda: 0)
    small = Launch("smollm2-instruct", size="0.135", device="cpu")
    with pytest.raises(GatewayError, match="needs") as refused:
        await backend.launch(small)
    assert refused.value.code == "does_not_fit"
    backend._state.write({"before": small})
    again = LocalBackend(backend._logs.parent, Catalogue.read())
    (model,) = await again.models()
    assert (model.status, model.message) == (LOADING, "")


@pytest.mark.parametrize(("gpus", "device", "holds"), [(1, "auto", True), (1, "cpu", False), (0, "auto", False), (0, "cuda", True)])
def test_what_a_gpu_holds_needs_no_memory_here(monkeypatch: pytest.MonkeyPatch, gpus: int, device: str, holds: bool):
    monkeypatch.setattr(Machine, "here", lambda: Machine(8, gpus, 2**33, 2**32))
    entry = Entry("m", "1", "org/m", None, parameters=2**40, context=4096, kv_elements=0)
    launch = Launch("m", device=device)
    assert (memory.needs(launch, entry) == 0) is holds
    assert memory.fit(launch, entry, 2**32).verdict is (Verdict.UNKNOWN if holds else Verdict.DOES_NOT_FIT)


def test_memory_is_counted_for_all_replicas_and_for_what_is_loading():
    entry = Entry("m", "1", "org/m", None, parameters=2**28, context=4096, kv_elements=0)
    one = memory.needs(Launch("m", device="cpu"), entry)
    assert memory.fit(Launch("m", device="cpu", replicas=2), entry, 2 * one).verdict is Verdict.FITS
    short = memory.fit(Launch("m", device="cpu", replicas=3), entry, 2 * one)
    assert (short.verdict, "fewer replicas" in short.message) == (Verdict.DOES_NOT_FIT, True)
    crowded = memory.fit(Launch("m", device="cpu"), entry, one, promised=1)
    assert (crowded.verdict, "models that are loading" in crowded.message) == (Verdict.DOES_NOT_FIT, True)
    assert memory.taken(os.getpid()) > 0
    assert memory.taken(None) == 0
