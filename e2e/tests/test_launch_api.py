"""Xinference's calls from outside, unchanged: its published clients, the documented cURL and the command line, of both backends.

One scenario in the order of the file. Only the address, and where the model lies, differ between the cluster and this machine.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import httpx
import pytest
from product import launching
from product.launching import Place, ended
from xinference_client import AsyncRESTfulClient, RESTfulClient

from cluster.kubectl import wait_for
from jitney_gateway.machine import Machine
from support import recorded
from support.models import save_damaged, save_endless, save_tiny

CURL, SHELL, PYTHON, ASYNC, CANCELLED = "by-curl", "by-cli", "by-python", "by-async", "by-nobody"
LAUNCHED = (CURL, SHELL, PYTHON, ASYNC)
FAMILY, OTHER_FAMILY = "smollm2-of-ours", "smollm2-of-others"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."
BEGINNING = "The capital of France is"
GREEDY = {"temperature": 0, "max_tokens": 20}
STREAMED = {**GREEDY, "stream": True}
# Too long to be over before it is aborted.
ENDLESS = {"temperature": 1, "max_tokens": 1500, "ignore_eos": True}
LAUNCH_SECONDS = 600
# Seconds until a pod that was deleted is gone, whatever the moment of its process. Its grace period is 135.
GRACE = 60
CALL = {"model_engine": "transformers", "model_name": "smollm2-instruct", "model_format": "pytorch", "quantization": "none"}
SIZED = {"model_size_in_billions": "0_135"}


@pytest.fixture(scope="module", params=["cluster", "local"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    if request.param == "local":
        with launching.on_this_machine(tmp_path_factory.mktemp("local")) as place:
            yield place
    else:
        request.getfixturevalue("operator")
        with launching.in_cluster(request.getfixturevalue("cluster"), request.getfixturevalue("kubectl")) as place:
            yield place


@pytest.fixture(scope="module")
def client(place: Place) -> RESTfulClient:
    return RESTfulClient(place.url)


@pytest.fixture
async def caller(place: Place) -> AsyncIterator[AsyncRESTfulClient]:
    caller = AsyncRESTfulClient(place.url)
    yield caller
    await caller.close()


@dataclass(frozen=True)
class Launched:
    """What became of four launches: what cURL and the command line printed, what the async client gave when it had waited, and what Python
    saw of the one that it did not wait for."""

    by_curl: str
    by_cli: str
    by_async: str
    by_python: str
    early: dict[str, Any]
    progress: list[float]


@pytest.fixture(scope="module")
def launched(place: Place, client: RESTfulClient) -> Iterator[Launched]:
    """All at the same time. cURL, the command line and the async client wait until their models are ready; Python, with a model of one's
    own, asks how far it is. Whatever a test has left is gone afterwards."""
    client.register_model("LLM", json.dumps(family(place)), persist=True)
    flags = ["--model-engine", "transformers", "-n", "smollm2-instruct", "-u", SHELL, "-s", "0_135", "-f", "pytorch", "-q", "none"]
    shell = place.jitney("launch", *flags, "--model-path", place.path, "--max_num_seqs", "4")
    curl = place.curl("/v1/models", {**CALL, "model_uid": CURL, "size_in_billions": "0_135", "model_path": place.path})
    with ThreadPoolExecutor(1) as threads:
        waited = threads.submit(asyncio.run, _launched_and_waited_for(place))
        try:
            own = {**CALL, **SIZED, "model_name": FAMILY}
            uid = client.launch_model(**own, model_uid=PYTHON, max_num_seqs=4, wait_ready=False)
            early = client.describe_model(uid)
            progress = list(_progress(client, uid))
            printed = ended(curl, LAUNCH_SECONDS)[0], ended(shell, LAUNCH_SECONDS)[1]
            yield Launched(*printed, waited.result(LAUNCH_SECONDS), uid, early, progress)
        finally:
            for process in (curl, shell):
                process.kill()
            for left in set(client.list_models()) & {*LAUNCHED, CANCELLED}:
                client.terminate_model(left)
            for name in {entry["model_name"] for entry in client.list_model_registrations("LLM")} & {FAMILY, OTHER_FAMILY}:
                client.unregister_model("LLM", name)


async def _launched_and_waited_for(place: Place) -> str:
    caller = AsyncRESTfulClient(place.url)
    try:
        return str(await caller.launch_model(**CALL, **SIZED, model_uid=ASYNC, model_path=place.path, max_num_seqs=4))
    finally:
        await caller.close()


def family(place: Place, name: str = FAMILY) -> dict[str, Any]:
    spec = {"model_format": "pytorch", "model_size_in_billions": "0_135", "quantization": "none", "model_uri": place.uri}
    described = {"version": 2, "model_name": name, "model_lang": ["en"], "model_ability": ["chat"], "model_description": "Ours."}
    return {**described, "context_length": 2048, "model_specs": [spec]}


def _progress(client: RESTfulClient, uid: str) -> Iterator[float]:
    """Each that is told, until the model is ready."""
    deadline = time.monotonic() + LAUNCH_SECONDS
    while (model := client.describe_model(uid))["status"] != "READY":
        assert model["status"] != "ERROR", model["message"]
        assert time.monotonic() < deadline, f"{uid} was not ready after {LAUNCH_SECONDS} s: {model['message']}"
        yield client.get_launch_model_progress(uid)["progress"]
        time.sleep(0.2)
    yield client.get_launch_model_progress(uid)["progress"]


def until_nothing_runs(client: RESTfulClient, uid: str) -> None:
    """As the runtime counts it."""
    metrics = f"{client.describe_model(uid)['address']}/metrics"
    name = f'jitney_requests_running{{model_name="{uid}"}} 0.0'
    wait_for(lambda: name in httpx.get(metrics, trust_env=False).text.splitlines(), 60, f"free row of {uid}")


def chat(place: Place, uid: str) -> httpx.Response:
    return httpx.post(f"{place.url}/v1/chat/completions", json={"model": uid, "messages": QUESTION, "max_tokens": 1}, trust_env=False)


def said(events: list[dict[str, Any]]) -> str:
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])


def texts(events: list[dict[str, Any]]) -> str:
    return "".join(event["choices"][0]["text"] for event in events if event["choices"])


def test_the_cluster_is_told_of(place: Place, client: RESTfulClient) -> None:
    def asked(path: str) -> Any:
        return httpx.get(f"{place.url}/v1/cluster/{path}", trust_env=False).raise_for_status().json()

    assert asked("auth") == {"auth": False}
    assert asked("version")["version"] == version("jitney")
    assert [node["node_type"] for node in asked("info")].count("Supervisor") == 1
    # In a cluster nodes are not seen from here; this machine's GPUs are.
    assert asked("devices") == (Machine.here().gpus if place.path.startswith("/") else 0)
    assert client.get_supervisor_info()["supervisor_ip"] in place.url


# Of `jitney local` it is seen where no cluster is needed.
@pytest.mark.parametrize("place", ["cluster"], indirect=True)
def test_answers_have_the_shape_of_xinferences(place: Place) -> None:
    """The recorded calls, before anything else is launched there."""
    with (
        launching.beside_the_model(place) as (folder, uri),
        httpx.Client(base_url=place.url, timeout=LAUNCH_SECONDS, trust_env=False) as http,
    ):
        tiny = save_tiny(folder / "tiny", vocab_size=49152, max_position_embeddings=2048)
        launching.open_to_pods(save_endless(folder / "endless", tiny))
        launching.open_to_pods(save_damaged(folder / "damaged", tiny))
        answers = recorded.answers(http, place.uri) | recorded.answers_of_launches(http, f"{uri}/endless", f"{uri}/damaged")
        # All of them at once, a line each.
        amiss = recorded.amiss(answers, recorded.IN_A_CLUSTER)
    assert not amiss, "\n".join(["the answers differ from Xinference's otherwise than is listed:", *amiss])
    wait_for(lambda: not place.left(recorded.UIDS), 120, "end of what was launched")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"worker_ip": "10.0.0.1"}, "worker_ip"),
        ({"gpu_idx": [0]}, "gpu_idx"),
        ({"n_worker": 2}, "n_worker"),
        ({"max_num_seq": 4}, "max_num_seq: this is no parameter of a launch"),
        ({"max_num_seqs": 0}, "max_num_seqs"),
        ({"model_engine": "vllm"}, "model_engine"),
        ({"size_in_billions": 4}, "size_in_billions"),
        ({"model_path": "nowhere"}, "model_path"),
    ],
    ids=["worker", "gpu", "workers", "misspelled", "out of range", "engine", "two sizes", "folder"],
)
def test_a_parameter_that_means_nothing_is_refused_by_name(client: RESTfulClient, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        client.launch_model(**{**CALL, **SIZED, "model_uid": CANCELLED, **wrong})
    assert CANCELLED not in client.list_models()


def test_a_launch_is_cancelled(place: Place, client: RESTfulClient) -> None:
    """Who waits for it is told."""
    told: list[str] = []

    def wait() -> None:
        try:
            told.append(RESTfulClient(place.url).launch_model(**CALL, **SIZED, model_uid=CANCELLED, model_path=place.path))
        except RuntimeError as error:
            told.append(str(error))

    waiting = threading.Thread(target=wait)
    waiting.start()
    wait_for(lambda: CANCELLED in client.list_models(), 30, "launch")
    client.cancel_launch_model(CANCELLED)
    waiting.join(60)
    assert told == [f"Failed to launch model, detail: the launch of {CANCELLED} was cancelled"]
    assert CANCELLED not in client.list_models()
    wait_for(lambda: not place.left((CANCELLED,)), GRACE, "end of what was launched")


async def test_the_async_client_follows_a_launch_and_cancels_it(place: Place, caller: AsyncRESTfulClient) -> None:
    """One that it does not wait for."""
    uid = await caller.launch_model(**CALL, **SIZED, model_uid=CANCELLED, model_path=place.path, wait_ready=False)
    assert (uid, (await caller.describe_model(uid))["status"]) == (CANCELLED, "LOADING")
    assert 0 <= (await caller.get_launch_model_progress(uid))["progress"] < 1
    await caller.cancel_launch_model(uid)
    assert uid not in await caller.list_models()
    with pytest.raises(RuntimeError, match=f"Model not found in the model list, uid: {uid}"):
        await caller.describe_model(uid)
    await asyncio.to_thread(wait_for, lambda: not place.left((uid,)), GRACE, "end of what was launched")


def test_each_documented_way_launches(launched: Launched) -> None:
    assert json.loads(launched.by_curl) == {"model_uid": CURL}
    assert f"Model uid: {SHELL}" in launched.by_cli
    assert launched.by_async == ASYNC
    assert (launched.by_python, launched.early["status"]) == (PYTHON, "LOADING")


def test_progress_is_told_until_it_is_ready(launched: Launched) -> None:
    *before, last = launched.progress
    assert before, "it was ready at once"
    assert launched.progress == sorted(launched.progress)
    assert (max(before) <= 1.0, last) == (True, 1.0)


def test_models_are_listed_and_described(launched: Launched, client: RESTfulClient) -> None:
    listed = {uid: model for uid, model in client.list_models().items() if uid in LAUNCHED}
    assert {uid: (model["status"], model["model_name"], model["model_size_in_billions"]) for uid, model in listed.items()} == {
        CURL: ("READY", "smollm2-instruct", "0_135"),
        SHELL: ("READY", "smollm2-instruct", "0_135"),
        PYTHON: ("READY", FAMILY, "0_135"),
        ASYNC: ("READY", "smollm2-instruct", "0_135"),
    }
    described = client.describe_model(PYTHON)
    assert described.items() <= listed[PYTHON].items()
    assert (described["model_type"], described["model_engine"], described["context_length"]) == ("LLM", "transformers", 2048)
    with pytest.raises(RuntimeError, match=f"Model is already in the model list, uid: {PYTHON}"):
        client.launch_model(**CALL, **SIZED, model_uid=PYTHON, wait_ready=False)


def replicas(place: Place, uid: str) -> list[dict[str, Any]]:
    """Neither client has a call for them."""
    return list(httpx.get(f"{place.url}/v1/models/{uid}/replicas", trust_env=False).raise_for_status().json())


def until_alone(place: Place, client: RESTfulClient, uid: str, only: dict[str, Any]) -> None:
    """No replica but this one, and the model is ready again."""
    wait_for(lambda: [one["model_address"] for one in replicas(place, uid)] == [only["model_address"]], 60, "end of the second")
    wait_for(lambda: client.describe_model(uid)["status"] == "READY", 60, "model that is ready again")


def test_replicas_and_instances(launched: Launched, place: Place, client: RESTfulClient) -> None:
    """One comes and goes again before it was ready; the one that answers stays."""
    (only,) = replicas(place, PYTHON)
    assert (only["status"], only["model_address"]) == ("READY", client.describe_model(PYTHON)["address"])
    assert client.add_model_replica(PYTHON)["replica_model_uid"] == f"{PYTHON}-1"
    (instance,) = client.get_instance_info(FAMILY, PYTHON)
    assert (instance["model_uid"], instance["replica"]) == (PYTHON, 2)
    assert client.terminate_model_replica(PYTHON, 1) == 1
    assert client.describe_model(PYTHON)["replica"] == 1
    until_alone(place, client, PYTHON, only)


async def test_the_async_client_changes_replicas(
    launched: Launched, place: Place, client: RESTfulClient, caller: AsyncRESTfulClient
) -> None:
    """The one that answers goes on answering."""
    (only,) = await asyncio.to_thread(replicas, place, ASYNC)
    assert (await caller.add_model_replica(ASYNC))["replica_model_uid"] == f"{ASYNC}-1"
    (instance,) = await caller.get_instance_info("smollm2-instruct", ASYNC)
    assert (instance["model_uid"], instance["replica"]) == (ASYNC, 2)
    model = await caller.get_model(ASYNC)
    assert said([event async for event in await model.chat(QUESTION, generate_config=STREAMED)]) == ANSWER
    await model.close()
    with pytest.raises(RuntimeError, match="has no replica 7"):
        await caller.terminate_model_replica(ASYNC, 7)
    assert await caller.terminate_model_replica(ASYNC, 1) == 1
    assert (await caller.describe_model(ASYNC))["replica"] == 1
    await asyncio.to_thread(until_alone, place, client, ASYNC, only)


def test_a_family_of_ones_own(launched: Launched, place: Place, client: RESTfulClient) -> None:
    told = client.get_model_registration("LLM", FAMILY)
    assert (told["model_specs"][0]["model_uri"], told["is_builtin"]) == (place.uri, False)
    assert FAMILY in {entry["model_name"] for entry in client.list_model_registrations("LLM") if not entry["is_builtin"]}
    with pytest.raises(RuntimeError, match="conflicts with existing model"):
        client.register_model("LLM", json.dumps(family(place)), persist=True)
    (offer,) = client.query_engine_by_model_name(FAMILY)["Transformers"]
    assert (offer["model_format"], offer["model_size_in_billions"]) == ("pytorch", "0_135")
    assert offer["quantizations"] == ["none"]
    built_in = client.query_engine_by_model_name("qwen1.5-chat")["Transformers"]
    assert all(offer["quantizations"] == ["none", "int8", "int4"] for offer in built_in)
    assert {"0_5", "1_8", 4} <= {offer["model_size_in_billions"] for offer in built_in}


async def test_the_async_client_keeps_a_family(launched: Launched, place: Place, caller: AsyncRESTfulClient) -> None:
    """And forgets it."""

    async def own() -> set[str]:
        return {entry["model_name"] for entry in await caller.list_model_registrations("LLM") if not entry["is_builtin"]}

    await caller.register_model("LLM", json.dumps(family(place, OTHER_FAMILY)), persist=True)
    told = await caller.get_model_registration("LLM", OTHER_FAMILY)
    assert (told["model_specs"][0]["model_uri"], told["is_builtin"]) == (place.uri, False)
    assert await own() == {FAMILY, OTHER_FAMILY}
    (offer,) = (await caller.query_engine_by_model_name(OTHER_FAMILY))["Transformers"]
    assert (offer["model_format"], offer["model_size_in_billions"]) == ("pytorch", "0_135")
    await caller.unregister_model("LLM", OTHER_FAMILY)
    assert await own() == {FAMILY}
    with pytest.raises(RuntimeError, match=OTHER_FAMILY):
        await caller.get_model_registration("LLM", OTHER_FAMILY)


def test_chats_and_completions(launched: Launched, client: RESTfulClient) -> None:
    model = client.get_model(PYTHON)
    whole = model.chat(QUESTION, generate_config=GREEDY)
    assert (whole["choices"][0]["message"]["content"], whole["usage"]["completion_tokens"]) == (ANSWER, 8)
    streamed = list(model.chat(QUESTION, generate_config=STREAMED))
    assert (said(streamed), len(streamed) > 5) == (ANSWER, True)
    text = model.generate(BEGINNING, generate_config=GREEDY)
    assert text["choices"][0]["text"].startswith(" Paris")
    pieces = list(model.generate(BEGINNING, generate_config=STREAMED))
    assert (texts(pieces), len(pieces) > 5) == (text["choices"][0]["text"], True)


async def test_the_async_client_chats_and_generates_in_one_batch(launched: Launched, caller: AsyncRESTfulClient) -> None:
    model = await caller.get_model(PYTHON)

    async def gathered(stream: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
        return [event async for event in stream]

    whole, text, streamed, pieces = await asyncio.gather(
        model.chat(QUESTION, generate_config=GREEDY),
        model.generate(BEGINNING, generate_config=GREEDY),
        gathered(await model.chat(QUESTION, generate_config=STREAMED)),
        gathered(await model.generate(BEGINNING, generate_config=STREAMED)),
    )
    assert whole["choices"][0]["message"]["content"] == said(streamed) == ANSWER
    assert text["choices"][0]["text"] == texts(pieces)
    await model.close()


def test_by_curl(launched: Launched, place: Place) -> None:
    answered = json.loads(ended(place.curl("/v1/chat/completions", {"model": CURL, "messages": QUESTION, **GREEDY}))[0])
    assert answered["choices"][0]["message"]["content"] == ANSWER
    streamed = ended(place.curl("/v1/completions", {"model": CURL, "prompt": BEGINNING, **STREAMED}))[0]
    *events, end = [line.removeprefix("data: ") for line in streamed.splitlines() if line.startswith("data:")]
    assert texts([json.loads(event) for event in events]).startswith(" Paris")
    assert end == "[DONE]"


def test_an_abort_frees_the_row_and_ends_the_stream(launched: Launched, client: RESTfulClient) -> None:
    stream = client.get_model(PYTHON).chat(QUESTION, generate_config={**ENDLESS, "stream": True, "request_id": "r1"})
    next(stream)
    assert client.abort_request(PYTHON, "r1") == {"msg": "DONE"}
    assert len(list(stream)) < ENDLESS["max_tokens"] - 1
    assert client.abort_request(PYTHON, "r1") == {"msg": "NOT_FOUND"}
    assert client.abort_request("nobody", "r1") == {"msg": "NO_OP"}
    until_nothing_runs(client, PYTHON)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_the_async_client_aborts(launched: Launched, client: RESTfulClient, caller: AsyncRESTfulClient, stream: bool) -> None:
    """An answer that is not streamed, too, which its asker is told of."""
    model, name = await caller.get_model(PYTHON), f"async-{stream}"
    asking = asyncio.ensure_future(model.generate(BEGINNING, generate_config={**ENDLESS, "stream": stream, "request_id": name}))
    if stream:
        events = await asking
        await anext(events)
    while (done := await caller.abort_request(PYTHON, name)) != {"msg": "DONE"}:
        assert (done, asking.done()) == ({"msg": "NOT_FOUND"}, stream), "it has not come yet"
        await asyncio.sleep(0.05)
    if stream:
        assert len([event async for event in events]) < ENDLESS["max_tokens"] - 1
    else:
        with pytest.raises(RuntimeError, match="the request was aborted"):
            await asking
    await asyncio.to_thread(until_nothing_runs, client, PYTHON)
    await model.close()


async def test_the_async_client_lists_and_describes(launched: Launched, caller: AsyncRESTfulClient) -> None:
    listed = await caller.list_models()
    described = await caller.describe_model(PYTHON)
    assert described.items() <= listed[PYTHON].items()
    assert (await caller.get_launch_model_progress(PYTHON))["progress"] == 1.0
    with pytest.raises(RuntimeError, match="Model not found in the model list, uid: nobody"):
        await caller.describe_model("nobody")
    with pytest.raises(RuntimeError, match="worker_ip"):
        await caller.launch_model(**CALL, **SIZED, model_uid=CANCELLED, worker_ip="10.0.0.1")


def test_by_the_command_line(launched: Launched, place: Place, client: RESTfulClient) -> None:
    rows = json.loads(ended(place.jitney("list", "-o", "json"))[0])
    assert {row["id"]: row["status"] for row in rows if row["id"] in LAUNCHED} == dict.fromkeys(LAUNCHED, "READY")
    described = json.loads(ended(place.jitney("describe", "--model-uid", SHELL, "-o", "json"))[0])
    assert (described["status"], described["model_name"], len(described["replicas"])) == ("READY", "smollm2-instruct", 1)
    refused = place.jitney("launch", "-n", "smollm2-instruct", "-u", CANCELLED, "--worker-ip", "10.0.0.1")
    assert "worker_ip" in refused.communicate(timeout=60)[1]
    assert refused.returncode == 1
    ended(place.jitney("terminate", "--model-uid", SHELL))
    assert SHELL not in client.list_models()


async def test_what_is_terminated_leaves_nothing(
    launched: Launched, place: Place, client: RESTfulClient, caller: AsyncRESTfulClient
) -> None:
    client.unregister_model("LLM", FAMILY)
    assert client.describe_model(PYTHON)["status"] == "READY", "it outlives its registration"
    await asyncio.gather(asyncio.to_thread(client.terminate_model, CURL), *(caller.terminate_model(uid) for uid in (PYTHON, ASYNC)))
    assert not {*LAUNCHED} & set(client.list_models())
    with pytest.raises(RuntimeError, match=f"Model not found in the model list, uid: {PYTHON}"):
        client.describe_model(PYTHON)
    # The front door that is asked may not be the one that ended it.
    wait_for(lambda: chat(place, PYTHON).status_code == 404, 10, "front door that knows it no more")
    wait_for(lambda: not place.left(LAUNCHED), GRACE, "end of what was launched")
