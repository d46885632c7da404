"""A front door of a cluster that is told to end while an answer is still on its way: it may finish for JITNEY_DRAIN_SECONDS."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from cluster import binaries
from cluster.control_plane import ControlPlane
from cluster.kubectl import Kubectl
from jitney_gateway.kubernetes.__main__ import LAST_SECONDS
from support import children
from support.gateway import Gateway, running_gateway, tell_of
from support.models import save_tiny
from support.namespaces import Namespace
from support.operator import Operator
from support.process import RuntimeProcess, running_runtime

ASKED: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "stream": True}
LAUNCH = {"model_engine": "transformers", "model_name": "smollm2-instruct", "model_size_in_billions": "0_135", "quantization": "none"}
CHART = Path(__file__).parents[2] / "charts" / "jitney"


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RuntimeProcess]:
    folder = tmp_path_factory.mktemp("runtime")
    weights = save_tiny(folder / "model", vocab_size=49152, max_position_embeddings=8192)
    words = ("--model", str(weights), "--served-model-name", "chat", "--host", "0.0.0.0")
    with running_runtime(folder, *words) as runtime:
        runtime.wait_ready()
        yield runtime


@pytest.fixture
def served(namespace: Namespace, runtime: RuntimeProcess) -> Namespace:
    namespace.create(model="smollm2-instruct", size="0.135")
    tell_of(namespace, int(runtime.url.rpartition(":")[2]))
    return namespace


@contextmanager
def silenced(runtime: RuntimeProcess) -> Iterator[None]:
    """It goes on only after the block: whatever it has begun does not end in it."""
    runtime.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        runtime.process.send_signal(signal.SIGCONT)


def client_of(gateway: Gateway) -> openai.OpenAI:
    gateway.until(lambda: gateway.ask().status_code == 200)
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=60)


def refusal(gateway: Gateway, model: str) -> httpx.Response:
    """Of a chat, once no more are taken; one that is still taken may have a silent runtime before it."""

    def ask() -> httpx.Response | None:
        try:
            answer = gateway.ask(model=model, timeout=3)
        except httpx.ReadTimeout:
            return None
        return answer if answer.status_code == 503 else None

    found = gateway.until(ask, 60)
    assert found
    return found


def test_a_stream_that_is_done_in_time_is_whole(served: Namespace, runtime: RuntimeProcess, tmp_path: Path):
    """Also where it takes longer than requests are taken."""
    with running_gateway(served, tmp_path, JITNEY_LINGER_SECONDS="1", JITNEY_DRAIN_SECONDS="120") as gateway:
        pieces = client_of(gateway).chat.completions.create(**ASKED, max_tokens=4000)
        next(pieces)
        with silenced(runtime):
            gateway.process.send_signal(signal.SIGTERM)
            time.sleep(2)
            assert gateway.process.poll() is None, "it is under way a second after the last was taken"
        last = list(pieces)[-1]
        assert last.choices[0].finish_reason in ("length", "stop")
        assert gateway.process.wait(60) == 0, "it does not wait for the rest of its time"


def test_who_leaves_takes_nothing_more_and_still_hears_of_an_abort(served: Namespace, runtime: RuntimeProcess, tmp_path: Path):
    """Over a new connection, as another front door asks it."""
    with running_gateway(served, tmp_path, JITNEY_LINGER_SECONDS="1", JITNEY_DRAIN_SECONDS="120") as gateway:
        pieces = client_of(gateway).chat.completions.create(**ASKED, max_tokens=4000, extra_body={"request_id": "mine"})
        next(pieces)
        with silenced(runtime):
            gateway.process.send_signal(signal.SIGTERM)
            refused = refusal(gateway, "chat")
            assert (refused.json()["error"]["code"], refused.headers["retry-after"]) == ("leaving", "1")
            assert refused.headers["connection"] == "close"
            abort = f"{gateway.url}/v1/models/chat/requests/mine/abort"
            assert httpx.post(abort, headers={"x-jitney-peer": "1"}, timeout=60).json() == {"msg": "DONE"}
            list(pieces)
            assert gateway.process.wait(60) == 0, "nothing is left to wait for"


def test_a_launch_that_waits_is_answered_by_who_leaves(namespace: Namespace, plane: ControlPlane, tmp_path: Path):
    """When it is ready, later than requests are taken."""
    with (
        ThreadPoolExecutor() as threads,
        Operator(plane.kubeconfig, namespace.name, tmp_path / "operator.log") as operator,
        running_gateway(namespace, tmp_path, JITNEY_LINGER_SECONDS="1", JITNEY_DRAIN_SECONDS="120") as gateway,
    ):
        launching = threads.submit(httpx.post, f"{gateway.url}/v1/models", json=LAUNCH | {"model_uid": "mine"}, timeout=120)
        operator.until(lambda: children.deployment(namespace, "mine"))
        gateway.process.send_signal(signal.SIGTERM)
        assert refusal(gateway, "mine").json()["error"]["code"] == "leaving"
        children.finish_rollout(namespace, "mine")
        assert launching.result(60).json() == {"model_uid": "mine"}
        assert gateway.process.wait(60) == 0


def test_a_launch_that_is_not_ready_by_then_goes_on_and_is_not_to_be_sent_again(namespace: Namespace, tmp_path: Path):
    """That would make another model."""
    with (
        ThreadPoolExecutor() as threads,
        running_gateway(namespace, tmp_path, JITNEY_LINGER_SECONDS="1", JITNEY_DRAIN_SECONDS="3") as gateway,
    ):
        launching = threads.submit(httpx.post, f"{gateway.url}/v1/models", json=LAUNCH, timeout=120)
        gateway.until(lambda: namespace.kubectl("get", "mdep", "-o", "name"))
        gateway.process.send_signal(signal.SIGTERM)
        told = launching.result(60)
        uid = "smollm2-instruct"
        words = f"this front door is leaving; the launch of {uid} goes on: ask GET /v1/models/{uid} how far it is"
        assert (told.status_code, told.json()["detail"], told.json()["error"]["code"]) == (503, words, "leaving")
        assert "retry-after" not in told.headers
        assert gateway.process.wait(60) == 0
    assert namespace.kubectl("get", "mdep", "-o", "name").split() == [f"modeldeployment.serving.jitney.dev/{uid}"]


def test_a_stream_that_is_not_is_ended_with_the_reason(served: Namespace, runtime: RuntimeProcess, tmp_path: Path):
    """Which OpenAI's client raises; the process ends well, and the runtime has its row back."""
    with running_gateway(served, tmp_path, JITNEY_LINGER_SECONDS="1", JITNEY_DRAIN_SECONDS="2") as gateway:
        pieces = client_of(gateway).chat.completions.create(**ASKED, max_tokens=4000)
        next(pieces)
        with silenced(runtime):
            gateway.process.send_signal(signal.SIGTERM)
            with pytest.raises(openai.APIError, match="this front door is leaving, and the answer was not done 2 s after") as told:
                list(pieces)
            assert told.value.code == "leaving"
            assert gateway.process.wait(60) == 0
        busy = re.compile(r"^jitney_requests_running\{.*\} 0\.0$", re.MULTILINE)
        gateway.until(lambda: busy.search(httpx.get(f"{runtime.url}/metrics").text))


def test_an_answer_that_has_not_begun_by_then_is_refused(served: Namespace, runtime: RuntimeProcess, tmp_path: Path):
    with running_gateway(served, tmp_path, JITNEY_LINGER_SECONDS="1", JITNEY_DRAIN_SECONDS="2") as gateway:
        client = client_of(gateway)
        with silenced(runtime):
            gateway.process.send_signal(signal.SIGTERM)
            with pytest.raises(openai.InternalServerError, match="this front door is leaving") as told:
                client.chat.completions.create(**ASKED | {"stream": False}, max_tokens=4)
            assert (told.value.status_code, told.value.response.headers["retry-after"]) == (503, "1")
            assert gateway.process.wait(60) == 0


@pytest.mark.parametrize(("grace", "drain"), [(300, 290), (30, 20), (20, 10)])
def test_the_chart_lets_answers_end_before_the_kubelet_does(grace: int, drain: int):
    """With time for the last words."""
    text = template(grace)
    assert re.findall(r'name: JITNEY_DRAIN_SECONDS\s+value: "(\d+)"', text) == [str(drain)]
    assert f"terminationGracePeriodSeconds: {grace}" in text
    assert drain > LAST_SECONDS
    assert drain + LAST_SECONDS < grace


def test_a_grace_that_is_too_short_for_that_is_refused():
    with pytest.raises(RuntimeError, match="terminationGracePeriodSeconds"):
        template(19)


def template(grace: int) -> str:
    values = ["gateway.enabled=true", f"gateway.terminationGracePeriodSeconds={grace}"]
    binaries.build((binaries.HELM,))
    return Kubectl(None).helm("template", "jitney", str(CHART), *(word for value in values for word in ("--set", value)))
