"""Chats through the front door of a cluster: a real API server tells of the pods, and real runtimes of a tiny model answer."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster import ports
from support import children
from support.answering import answering
from support.gateway import Gateway, running_gateway, take_away, tell_of
from support.models import save_tiny
from support.namespaces import Namespace
from support.operator import Operator
from support.process import RuntimeProcess, running_runtime
from support.proxy import GONE, Answer, Fault, Proxy, Seen, Silence, Then, Torn, once

SMALL = {"model": "smollm2-instruct", "size": "0.135"}
LONG = "You are the assistant of a bank and you answer in one sentence, in the language of the question. " * 20


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"), vocab_size=49152, max_position_embeddings=8192)


@pytest.fixture(scope="module")
def pair(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RuntimeProcess, RuntimeProcess]]:
    """Two replicas that live as long as the module."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(replica(weights, tmp_path_factory.mktemp(name))) for name in ("one", "two"))
        first.wait_ready()
        second.wait_ready()
        yield first, second


def replica(weights: Path, folder: Path) -> Any:
    """It listens on the machine's address: the API server takes no loopback for a pod's."""
    return running_runtime(folder, "--model", str(weights), "--served-model-name", "chat", "--host", "0.0.0.0", "--drain-seconds", "30")


@pytest.fixture
def gateway(namespace: Namespace, tmp_path: Path) -> Iterator[Gateway]:
    with running_gateway(namespace, tmp_path) as gateway:
        yield gateway


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def port_of(runtime: RuntimeProcess) -> int:
    return int(runtime.url.rpartition(":")[2])


def serve(namespace: Namespace, *runtimes: RuntimeProcess, **spec: Any) -> None:
    """A resource, and these as its pods."""
    namespace.create(**SMALL, **spec)
    for runtime in runtimes:
        tell_of(namespace, port_of(runtime))


def metric(runtime: RuntimeProcess, name: str) -> float:
    found = re.findall(rf"^{name}(?:\{{.*\}})? ([0-9.e+]+)$", httpx.get(f"{runtime.url}/metrics").text, re.MULTILINE)
    return sum(float(value) for value in found)


def answered(runtime: RuntimeProcess) -> float:
    return metric(runtime, "jitney_requests_total")


def running(runtime: RuntimeProcess) -> float:
    return metric(runtime, "jitney_requests_running")


def replicas(namespace: Namespace) -> int:
    return int(namespace.get()["spec"]["replicas"])


def refused(answer: httpx.Response, status: int, *words: str) -> None:
    """In words for both kinds of clients, and with the seconds after which to try again."""
    assert answer.status_code == status, answer.text
    assert all(word in answer.json()["detail"] for word in words), answer.text
    assert answer.json()["error"]["message"] == answer.json()["detail"]
    assert int(answer.headers["retry-after"]) > 0


# Who is asked


def test_only_pods_that_are_ready_and_stay_are_asked(namespace: Namespace, gateway: Gateway, pair: tuple[RuntimeProcess, RuntimeProcess]):
    serve(namespace, *pair)
    nobody, unready = ports.free(2)
    tell_of(namespace, nobody, terminating=True, serving=True)
    tell_of(namespace, unready, ready=False)
    gateway.until(lambda: len(httpx.get(f"{gateway.url}/v1/models/chat/replicas").json()) == 3)
    before = [answered(runtime) for runtime in pair]
    for _ in range(6):
        assert gateway.ask().status_code == 200
    assert [answered(runtime) - count for runtime, count in zip(pair, before, strict=True)] == [3, 3]
    listed = {found["replica_id"]: found["status"] for found in httpx.get(f"{gateway.url}/v1/models/chat/replicas").json()}
    assert listed == {f"chat-{port_of(pair[0])}": "READY", f"chat-{port_of(pair[1])}": "READY", f"chat-{unready}": "LOADING"}


def test_requests_that_begin_alike_meet_one_replica(namespace: Namespace, gateway: Gateway, pair: tuple[RuntimeProcess, RuntimeProcess]):
    serve(namespace, *pair)
    gateway.until(lambda: gateway.ask().status_code == 200)
    before = [answered(runtime) for runtime in pair]
    for number in range(8):
        messages = [{"role": "system", "content": LONG}, {"role": "user", "content": f"Question {number}"}]
        assert gateway.ask(messages=messages).status_code == 200
    assert sorted(answered(runtime) - count for runtime, count in zip(pair, before, strict=True)) == [0, 8]


def test_completions_go_the_same_way(namespace: Namespace, gateway: Gateway, pair: tuple[RuntimeProcess, RuntimeProcess]):
    serve(namespace, pair[0])
    body = {"model": "chat", "prompt": "Once upon a time", "max_tokens": 3, "temperature": 0}
    answer = gateway.until(lambda: httpx.post(f"{gateway.url}/v1/completions", json=body, timeout=60))
    assert answer.json()["usage"]["completion_tokens"] == 3


def test_a_model_that_is_not_there(namespace: Namespace, gateway: Gateway):
    namespace.create("other", **SMALL)
    gateway.until(lambda: "there are other" in gateway.ask().text)
    assert gateway.ask().status_code == 404
    assert gateway.ask().json()["error"]["code"] == "model_not_found"


def test_a_model_of_another_namespace(namespace: Namespace, tmp_path: Path, pair: tuple[RuntimeProcess, RuntimeProcess]):
    namespace.plane.kubectl("create", "namespace", f"{namespace.name}-b")
    other = Namespace(namespace.plane, f"{namespace.name}-b")
    serve(other, pair[0])
    with running_gateway(namespace, tmp_path, JITNEY_NAMESPACES=other.name) as gateway:
        assert gateway.ask(model=f"{other.name}/chat").status_code == 200
        assert gateway.ask().status_code == 404
        assert [found["id"] for found in httpx.get(f"{gateway.url}/v1/models").json()["data"]] == [f"{other.name}/chat"]


# What is known of the cluster


def test_no_chat_asks_the_api_server(namespace: Namespace, tmp_path: Path, proxy: Proxy, pair: tuple[RuntimeProcess, RuntimeProcess]):
    serve(namespace, *pair)
    with running_gateway(namespace, tmp_path, proxy.kubeconfig) as gateway:
        gateway.until(lambda: proxy.count_watches("endpointslices"))
        assert gateway.ask().status_code == 200
        begun = time.monotonic()
        for _ in range(10):
            assert gateway.ask().status_code == 200
            assert gateway.ask(model="nobody").status_code == 404
        assert not proxy.since(begun)


PLURALS = ("endpointslices", "modeldeployments")
FAULTS = {"410": GONE, "torn": Torn(proper=True), "cut": Torn(proper=False), "silent": Silence(), "refused": Answer(403)}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_watches_that_fail_hide_nothing_for_long(namespace: Namespace, tmp_path: Path, proxy: Proxy, fault: Fault):
    """Nobody answers at this port: that it was asked is enough."""
    rules = [once(plural, fault) for plural in PLURALS]
    proxy.rule = lambda seen: next((found for rule in rules if (found := rule(seen))), None)
    with running_gateway(namespace, tmp_path, proxy.kubeconfig, silence=2) as gateway:
        gateway.until(lambda: all(proxy.count_watches(plural) for plural in PLURALS))
        namespace.create(**SMALL)
        tell_of(namespace, ports.free(1)[0])
        gateway.until(lambda: "went away" in gateway.ask(timeout=20).text)


def test_without_the_api_server_chats_go_on(
    namespace: Namespace, tmp_path: Path, proxy: Proxy, pair: tuple[RuntimeProcess, RuntimeProcess]
):
    serve(namespace, *pair)
    with running_gateway(namespace, tmp_path, proxy.kubeconfig) as gateway:
        assert gateway.ask().status_code == 200
        proxy.rule = lambda _: Answer(500)
        for plural in PLURALS:
            proxy.cut(plural)
        gateway.until(lambda: "listing it again" in gateway.log.read_text())
        assert gateway.ask().status_code == 200
        assert httpx.get(f"{gateway.url}/v1/models").status_code == 503
        proxy.rule = None
        for runtime in pair:
            take_away(namespace, port_of(runtime))
        gateway.until(lambda: not httpx.get(f"{gateway.url}/v1/models/chat/replicas").json())


def test_a_front_door_that_knows_nothing_yet_says_so(namespace: Namespace, tmp_path: Path, proxy: Proxy):
    def forbidden(seen: Seen) -> Fault | None:
        return Answer(403) if seen.plural == "endpointslices" else None

    with running_gateway(namespace, tmp_path, proxy.kubeconfig) as other, ThreadPoolExecutor(1) as thread:
        proxy.rule = forbidden
        started: Future[None] = thread.submit(_start_and_stop, namespace, tmp_path, proxy)
        other.until(lambda: any(seen.plural == "endpointslices" and seen.lists for seen in proxy.seen[-20:]))
        time.sleep(3)
        assert not started.done(), "it is not ready"
        proxy.rule = None
        started.result(60)


def _start_and_stop(namespace: Namespace, folder: Path, proxy: Proxy) -> None:
    with running_gateway(namespace, folder, proxy.kubeconfig):
        pass


# Who cannot be asked


def test_a_pod_that_is_gone_is_not_noticed(namespace: Namespace, gateway: Gateway, pair: tuple[RuntimeProcess, RuntimeProcess]):
    serve(namespace, pair[0])
    for port in ports.free(2):
        tell_of(namespace, port)
    gateway.until(lambda: len(httpx.get(f"{gateway.url}/v1/models/chat/replicas").json()) == 3)
    for number in range(12):
        assert gateway.ask(messages=[{"role": "user", "content": f"{number} {LONG}"}]).status_code == 200


def test_where_no_pod_can_be_reached_the_client_may_try_again(namespace: Namespace, gateway: Gateway):
    serve(namespace)
    for port in ports.free(4):
        tell_of(namespace, port)
    gateway.until(lambda: len(httpx.get(f"{gateway.url}/v1/models/chat/replicas").json()) == 4)
    refused(gateway.ask(), 503, "chat: each of 3 replicas asked went away")


def test_a_pod_that_drains_loses_no_request(
    namespace: Namespace, gateway: Gateway, pair: tuple[RuntimeProcess, RuntimeProcess], weights: Path, tmp_path: Path
):
    """Its endpoint is never taken away: the runtime's own 503 is enough. An answer that it had begun is finished."""
    with replica(weights, tmp_path) as leaving:
        leaving.wait_ready()
        serve(namespace, leaving)
        gateway.until(lambda: gateway.ask().status_code == 200)
        # Twice the usual length: it must outlast the five seconds in which the runtime still takes requests.
        with stream(gateway, max_tokens=8000) as lines:
            tell_of(namespace, port_of(pair[0]))
            leaving.terminate()
            end = time.monotonic() + 20
            while not _takes_no_more(leaving):
                assert gateway.ask().status_code == 200
                assert time.monotonic() < end
            for _ in range(5):
                assert gateway.ask().status_code == 200
            assert list(lines)[-1] == "data: [DONE]"


def _takes_no_more(runtime: RuntimeProcess) -> bool:
    return httpx.post(f"{runtime.url}/v1/chat/completions", json={}).status_code == 503


@contextmanager
def stream(gateway: Gateway, **body: Any) -> Iterator[Iterator[str]]:
    """The lines that are not empty, of an answer that has begun. One of 4000 tokens takes several seconds."""
    usual = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "stream": True, "max_tokens": 4000}
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=usual | body, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = filter(None, answer.iter_lines())
        next(lines)
        yield lines


# Asleep


def test_a_model_at_zero_is_woken_and_its_requests_are_held(
    namespace: Namespace, gateway: Gateway, pair: tuple[RuntimeProcess, RuntimeProcess], threads: ThreadPoolExecutor
):
    serve(namespace, replicas=0)
    gateway.until(lambda: httpx.get(f"{gateway.url}/v1/models").json()["data"])
    time.sleep(0.5)
    asked = [threads.submit(gateway.ask) for _ in range(8)]
    gateway.until(lambda: replicas(namespace) == 1)
    time.sleep(1)
    assert not any(future.done() for future in asked)
    tell_of(namespace, port_of(pair[0]))
    assert {future.result(20).status_code for future in asked} == {200}
    assert gateway.log.read_text().count("woken by a request") == 1


def test_the_operator_makes_the_pod_that_was_asked_for(
    namespace: Namespace, tmp_path: Path, gateway: Gateway, pair: tuple[RuntimeProcess, RuntimeProcess], threads: ThreadPoolExecutor
):
    with Operator(namespace.plane.kubeconfig, namespace.name, tmp_path / "operator.log") as operator:
        namespace.create(**SMALL, replicas=0)
        operator.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 0)
        children.finish_rollout(namespace)
        operator.until(lambda: namespace.reason() == "ScaledToZero")
        asked = threads.submit(gateway.ask)
        operator.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 1)
        tell_of(namespace, port_of(pair[0]))
        assert asked.result(20).status_code == 200


@pytest.fixture
def pod_address(pair: tuple[RuntimeProcess, RuntimeProcess]) -> Iterator[str]:
    """Of a pod that is the first of the pair: there the operator asks, and hears what the runtime says."""
    with answering("127.0.53.41", body=lambda path: httpx.get(f"{pair[0].url}{path}").content):
        yield "127.0.53.41"


def test_a_model_that_its_load_sends_to_sleep_is_woken_by_the_next_chat(
    namespace: Namespace, tmp_path: Path, gateway: Gateway, pair: tuple[RuntimeProcess, RuntimeProcess], pod_address: str,
    threads: ThreadPoolExecutor,
):  # fmt: skip
    """All its requests are held meanwhile, and do not each call for it."""
    configuration, port = tmp_path / "config.yaml", port_of(pair[0])
    configuration.write_text(f'{{profiles: {{cpu: {{memory: 4Gi}}}}, wakeNamespaces: ["{namespace.name}"]}}')
    with Operator(namespace.plane.kubeconfig, namespace.name, tmp_path / "log", quiet=3, JITNEY_CONFIG=str(configuration)) as operator:
        namespace.create(**SMALL, autoscaling={"minReplicas": 0, "maxReplicas": 2, "scaleDownDelaySeconds": 0})
        operator.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 1)
        children.ready_pod(namespace, pod_address)
        tell_of(namespace, port)
        assert gateway.ask().status_code == 200
        operator.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 0)
        take_away(namespace, port)
        children.finish_rollout(namespace)
        operator.until(lambda: namespace.reason() == "ScaledToZero")
        asked = [threads.submit(gateway.ask) for _ in range(8)]
        operator.until(lambda: children.deployment(namespace)["spec"]["replicas"] == 1)
        assert not any(future.done() for future in asked)
        tell_of(namespace, port)
        assert {future.result(20).status_code for future in asked} == {200}
        assert 0 < gateway.log.read_text().count("a replica is called for") < len(asked)
        assert namespace.get()["spec"].get("replicas", 1) == 1, "the spec is the person's"


def test_who_is_suspended_is_not_woken(namespace: Namespace, gateway: Gateway):
    serve(namespace, replicas=0, suspend=True)
    answer = gateway.until(lambda: (found := gateway.ask()).status_code == 503 and found)
    assert "chat is suspended: set spec.suspend to false" in answer.json()["detail"]
    assert "retry-after" not in answer.headers
    assert replicas(namespace) == 0


def test_somebody_elses_scaling_is_not_overruled(namespace: Namespace, tmp_path: Path, proxy: Proxy):
    """Between the look and the patch a person scales to three: the patch of an older version is refused."""
    serve(namespace, replicas=0)
    done = threading.Event()

    def between(seen: Seen) -> Fault | None:
        if seen.method == "GET" and seen.path.endswith("/scale") and not done.is_set():
            done.set()
            return Then(lambda: namespace.update(replicas=3))
        return None

    proxy.rule = between
    with running_gateway(namespace, tmp_path, proxy.kubeconfig, JITNEY_HOLD_SECONDS="3") as gateway:
        refused(gateway.ask(), 503, "has no replica after 3 s")
        assert replicas(namespace) == 3


def test_holding_has_an_end(namespace: Namespace, tmp_path: Path):
    serve(namespace, replicas=0)
    with running_gateway(namespace, tmp_path, JITNEY_HOLD_SECONDS="1") as gateway:
        begun = time.monotonic()
        refused(gateway.ask(), 503, "chat has no replica after 1 s of waiting")
        assert 0.9 < time.monotonic() - begun < 10


def test_so_many_are_held_and_who_leaves_makes_room(namespace: Namespace, tmp_path: Path, threads: ThreadPoolExecutor):
    serve(namespace, replicas=0)
    with running_gateway(namespace, tmp_path, JITNEY_MAX_HELD_REQUESTS="2") as gateway:
        leaving = [threads.submit(_give_up, gateway, 3) for _ in range(2)]
        time.sleep(1)
        refused(gateway.ask(), 503, "2 requests wait for chat already")
        for future in leaving:
            future.result(20)
        with pytest.raises(httpx.ReadTimeout):
            gateway.ask(timeout=2)


def _give_up(gateway: Gateway, seconds: float) -> None:
    with pytest.raises(httpx.ReadTimeout):
        gateway.ask(timeout=seconds)


def test_a_front_door_that_leaves_lets_go_whom_it_holds(namespace: Namespace, tmp_path: Path, threads: ThreadPoolExecutor):
    serve(namespace, replicas=0)
    with running_gateway(namespace, tmp_path) as gateway:
        asked = threads.submit(gateway.ask)
        gateway.until(lambda: replicas(namespace) == 1)
    refused(asked.result(20), 503, "is leaving")


# Overload and ends


def test_more_than_the_replicas_may_have_is_429(namespace: Namespace, tmp_path: Path, pair: tuple[RuntimeProcess, RuntimeProcess]):
    serve(namespace, pair[0])
    with running_gateway(namespace, tmp_path, JITNEY_MAX_REQUESTS_PER_REPLICA="1") as gateway:
        with stream(gateway):
            refused(gateway.ask(), 429, "each replica of chat has 1 requests under way")
        gateway.until(lambda: gateway.ask().status_code == 200)


def test_more_than_the_front_door_may_have_is_429(namespace: Namespace, tmp_path: Path, pair: tuple[RuntimeProcess, RuntimeProcess]):
    serve(namespace, *pair)
    with running_gateway(namespace, tmp_path, JITNEY_MAX_REQUESTS="1") as gateway:
        gateway.until(lambda: gateway.ask().status_code == 200)
        with stream(gateway):
            refused(gateway.ask(), 429, "this front door has 1 requests under way")


def test_a_stream_comes_as_it_is_made_and_ends_with_its_client(
    namespace: Namespace, gateway: Gateway, pair: tuple[RuntimeProcess, RuntimeProcess]
):
    serve(namespace, pair[0])
    gateway.until(lambda: gateway.ask().status_code == 200)
    with stream(gateway):
        assert running(pair[0]) == 1, "the first event is here before the answer is done"
    gateway.until(lambda: running(pair[0]) == 0, 5)


def test_no_stream_breaks_when_the_front_door_is_replaced(
    namespace: Namespace, tmp_path: Path, pair: tuple[RuntimeProcess, RuntimeProcess]
):
    serve(namespace, pair[0])
    with running_gateway(namespace, tmp_path, JITNEY_LINGER_SECONDS="2") as gateway, stream(gateway) as lines:
        gateway.process.send_signal(signal.SIGTERM)
        gateway.until(lambda: httpx.get(f"{gateway.url}/readyz").status_code == 503, 1)
        assert gateway.ask().status_code == 200, "its endpoint may not be gone yet"
        assert list(lines)[-1] == "data: [DONE]"
        assert gateway.process.wait(20) == 0
