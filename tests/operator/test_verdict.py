"""What the operator would say of a manifest, and its route."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from functools import partial
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from cluster import ports
from jitney_operator import health, plan, verdict
from jitney_operator.api import ModelDeployment
from jitney_operator.health import Health
from jitney_operator.metrics import Metrics
from jitney_operator.observed import Observed
from jitney_operator.settings import Allow, Profile, Settings
from jitney_operator.verdict import NotAManifest

GI = 1024**3
SETTINGS = Settings(
    profiles={"cpu": Profile("cpu", "cpu", 4 * GI, limits={"memory": "4Gi"}), "gpu": Profile("gpu", "cuda", 24 * GI, gpus=1)},
    allow=Allow(images=("registry.example/*",), env=("HF_*",)),
)
SMALL = {"model": "smollm2-instruct", "size": "0.135"}


def manifest(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "chat", "namespace": "team"}
    return {"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "metadata": metadata, "spec": spec}


def test_a_model_that_fits_is_accepted_with_its_figures():
    found = verdict.of(manifest(**SMALL, maxModelLen=2048), SETTINGS)
    assert (found["accepted"], found["fits"], found["reason"]) == (True, True, "Fits")
    assert (found["resolved"]["profile"], found["resolved"]["maxModelLen"], found["memory"]) == ("cpu", 2048, "4.00Gi")
    assert set(found["resolved"]["breakdown"]) == {"weights", "kvCache", "overhead"}


def test_the_memory_is_that_of_the_resources_own_limit():
    assert verdict.of(manifest(**SMALL, resources={"limits": {"memory": "6Gi"}}), SETTINGS)["memory"] == "6.00Gi"


def test_one_that_does_not_fit_is_told_what_would():
    found = verdict.of(manifest(model="qwen2.5-instruct", size=7, resourceProfile="cpu"), SETTINGS)
    assert (found["accepted"], found["fits"], found["reason"]) == (False, False, "DoesNotFit")
    assert "the profile has 4.00Gi. What would fit: resourceProfile gpu (24.00Gi)." in found["message"]
    assert "resolved" not in found


@pytest.mark.parametrize("more", [{}, {"resources": {"limits": {"memory": "a lot"}}}])
def test_an_unknown_shape_is_accepted_and_not_measured(more: dict[str, Any]):
    found = verdict.of(manifest(model="org/unheard-of", **more), SETTINGS)
    assert (found["accepted"], found["fits"], found["reason"], found["resolved"]["profile"]) == (True, None, "ShapeUnknown", "cpu")


def test_what_is_refused_for_another_reason_was_not_measured():
    found = verdict.of(manifest(**SMALL, env=[{"name": "SECRET"}]), SETTINGS)
    assert (found["accepted"], found["fits"], found["reason"]) == (False, None, "NotAllowed")


@pytest.mark.parametrize(
    "spec",
    [
        SMALL,
        SMALL | {"maxNumSeqs": 512},
        SMALL | {"device": "cuda", "replicas": 3},
        SMALL | {"quantization": "int8"},
        SMALL | {"quantization": "int8", "resourceProfile": "gpu"},
        SMALL | {"resourceProfile": "h100"},
        SMALL | {"suspend": True},
        SMALL | {"image": "elsewhere/x:1"},
        SMALL | {"autoscaling": {"minReplicas": 0, "maxReplicas": 2}},
        SMALL | {"resources": {"limits": {"memory": "1Gi"}}},
        SMALL | {"cache": {"type": "PersistentVolumeClaim", "size": "9Gi"}, "hfTokenSecretRef": {"name": "a", "key": "b"}},
        {"model": "nope"},
        {"model": "qwen1.5-chat"},
        {"model": "qwen2.5-instruct", "size": "7"},
        {"model": "qwen2.5-instruct", "size": "72"},
        {"model": "org/unheard-of", "maxModelLen": 4096},
        {"model": "pvc://claim/folder"},
        {"model": "oci://elsewhere/model:1"},
    ],
    ids=str,
)
def test_it_says_what_the_status_says(spec: dict[str, Any]):
    made = {**manifest(**spec), "metadata": {"name": "chat", "namespace": "team", "uid": "u1", "generation": 1, "resourceVersion": "7"}}
    status = plan.make(ModelDeployment.parse(made), Observed(), SETTINGS, SETTINGS.catalogue).status("2026-01-01T00:00:00Z")
    found = verdict.of(manifest(**spec), SETTINGS)
    (accepted,) = (entry for entry in status["conditions"] if entry["type"] == "Accepted")
    assert (str(found["accepted"]), found["reason"], found["message"]) == tuple(accepted[name] for name in ("status", "reason", "message"))
    assert found.get("resolved") == status.get("resolved")


def test_a_status_that_it_brings_along_is_not_read():
    kept = {"resolved": {"generation": 1, "profile": "gpu", "repository": "org/other", "image": "x"}}
    assert verdict.of(manifest(**SMALL) | {"status": kept}, SETTINGS) == verdict.of(manifest(**SMALL), SETTINGS)


def test_an_absurd_amount_is_not_accepted():
    found = verdict.of(manifest(**SMALL, resources={"limits": {"memory": "1e999999"}}), SETTINGS)
    assert not found["accepted"]
    assert "more than any machine has" in found["message"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "a manifest with apiVersion"),
        ({**manifest(**SMALL), "kind": "Pod"}, "kind ModelDeployment is expected"),
        ({**manifest(**SMALL), "metadata": {"name": "chat"}}, "a name and a namespace"),
        ({**manifest(), "spec": None}, "spec.model"),
        (manifest(model=7), "spec.model"),
        (manifest(**SMALL, maxNumSeqs="many"), "spec is not that of a ModelDeployment"),
        (manifest(model="qwen2.5-instruct", size="7", resourceProfile="cpu", maxNumSeqs=0), "spec is not that of a ModelDeployment"),
        (manifest(**SMALL, env="HF_HOME"), "spec is not that of a ModelDeployment"),
        (manifest(**SMALL, resources=[]), "spec is not that of a ModelDeployment"),
        (manifest(**SMALL, autoscaling={}), "maxReplicas"),
    ],
)
def test_what_is_no_manifest_is_refused(body: object, said: str):
    with pytest.raises(NotAManifest, match=said):
        verdict.of(body, SETTINGS)


def test_a_defect_of_ours_is_seen_in_the_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    def make(*_: object) -> None:
        raise KeyError("of ours")

    monkeypatch.setattr(plan, "make", make)
    with caplog.at_level("INFO"), pytest.raises(NotAManifest):
        verdict.of(manifest(**SMALL), SETTINGS)
    assert "KeyError: 'of ours'" in caplog.text


@pytest.fixture
async def url() -> AsyncIterator[str]:
    port = ports.free(1)[0]
    served = Health(port, lambda: True, lambda: False, Metrics(), partial(verdict.of, settings=SETTINGS))
    await served.start()
    yield f"http://127.0.0.1:{port}/v1/verdict"
    await served.stop()


async def test_the_route_answers_a_manifest(url: str):
    async with aiohttp.ClientSession() as client, client.post(url, json=manifest(**SMALL)) as answer:
        assert answer.status == 200
        assert await answer.json() == verdict.of(manifest(**SMALL), SETTINGS)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "is not JSON"),
        (b"\xff\xff", 400, "is not JSON"),
        (b"[" * 60_000, 400, "is not JSON"),
        (b"{}", 400, "a manifest with apiVersion"),
        (b" " * (health.LARGEST + 1), 413, "exceeded"),
    ],
    ids=["empty", "not-utf-8", "deep", "another-object", "large"],
)
async def test_the_route_refuses_in_a_sentence(url: str, body: bytes, status: int, said: str):
    async with aiohttp.ClientSession() as client, client.post(url, data=body) as answer:
        assert (answer.status, said in await answer.text()) == (status, True)


async def test_only_so_many_may_ask_at_once(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(health, "SECONDS", 60.0)
    port = int(url.split(":")[2].partition("/")[0])
    async with asyncio.timeout(30), aiohttp.ClientSession() as client, contextlib.AsyncExitStack() as slow:

        async def status() -> int:
            async with client.post(url, json=manifest(**SMALL)) as answer:
                return answer.status

        for _ in range(health.AT_ONCE):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            slow.callback(writer.close)
            writer.write(b"POST /v1/verdict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
        while await status() == 200:
            await asyncio.sleep(0.05)
        assert await status() == 503
        await slow.aclose()
        while await status() == 503:
            await asyncio.sleep(0.05)
        assert await status() == 200


async def test_verdicts_leave_the_loop_to_others():
    port, spans = ports.free(1)[0], []

    def slow(body: object) -> dict[str, Any]:
        begun = time.monotonic()
        time.sleep(0.05)
        spans.append((begun, time.monotonic()))
        return {}

    served = Health(port, lambda: True, lambda: False, Metrics(), slow)
    await served.start()
    try:
        async with aiohttp.ClientSession() as client:
            answers = await asyncio.gather(*(client.post(f"http://127.0.0.1:{port}/v1/verdict", json={}) for _ in range(3)))
            assert [answer.status for answer in answers] == [200] * 3
    finally:
        await served.stop()
    assert all(after - end > (health.REST - 1) * (end - begun) for (begun, end), (after, _) in pairwise(spans))


async def test_a_manifest_that_does_not_come_is_not_waited_for(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(health, "SECONDS", 0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.split(":")[2].partition("/")[0]))
    writer.write(b"POST /v1/verdict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
    assert b" 408 " in await asyncio.wait_for(reader.readline(), 30)
    writer.close()
