"""Xinference's documented example through the cluster's front door: qwen1.5-chat, 4, pytorch, none, from the hub to a chat answer.

The administrator's values name the hub, which is on this machine and has a tiny random Qwen2 under the name of the 4B, and a profile that
holds the 4B. The call itself is the documented one. Of `jitney local` it is seen where no cluster is needed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from product import front_door
from product.launching import LABEL, Place, ended
from xinference_client import RESTfulClient

from cluster import network
from cluster.kubectl import Kubectl, wait_for
from cluster.target import Cluster
from hub.server import Hub, running_hub
from jitney_gateway.catalogue import Catalogue
from support.models import save_tiny

CALL = {"model_engine": "transformers", "model_name": "qwen1.5-chat", "model_format": "pytorch", "quantization": "none"}
DOCUMENTED = {**CALL, "model_size_in_billions": 4}
UID, RESOURCE, REPOSITORY = "qwen1.5-chat", "qwen1-5-chat", "Qwen/Qwen1.5-4B-Chat"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
# What the 4B needs with 16 chats at once. It requests less of the node: what stands in for it is small.
LARGE = {"device": "cpu", "memory": "24Gi", "requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"memory": "24Gi"}}
# Bytes per second: its 25 MB take three times as long as the operator lets pass between two lines of progress.
PACE = 1_600_000
LAUNCH_SECONDS = 300
MIB = 1024**2


@pytest.fixture
def hub(cluster: Cluster, tmp_path: Path) -> Iterator[Hub]:
    if cluster.kind != "local":
        pytest.skip("the pods of another cluster do not reach a hub on this machine")
    with running_hub(network.ADDRESS) as found:
        # As long a window as the 4B's.
        found.repositories[REPOSITORY] = save_tiny(tmp_path / "model", vocab_size=49152, max_position_embeddings=32768)
        found.pace = PACE
        yield found


@pytest.fixture
def xinference(cluster: Cluster, operator: None, kubectl: Kubectl, hub: Hub) -> Iterator[RESTfulClient]:
    """Its published client at the front door; what the test has launched is gone afterwards."""
    values = ["--set", f"config.hubEndpoint={hub.url}", "--set-json", f"config.profiles.cpu-large={json.dumps(LARGE)}"]
    with front_door.installed(cluster, kubectl, *values) as url:
        yield RESTfulClient(url)
        kubectl("delete", "mdep", RESOURCE, "-n", front_door.HOME, "--ignore-not-found", "--cascade=foreground", "--timeout=120s")


def test_the_documented_example_runs_to_an_answer(xinference: RESTfulClient, hub: Hub, kubectl: Kubectl) -> None:
    with ThreadPoolExecutor(1) as threads:
        launch = threads.submit(xinference.launch_model, **DOCUMENTED)
        told = _progress_until_over(xinference, launch)
        assert launch.result() == UID
    print("", "progress: " + ", ".join(f"{share:.2f}" for share in dict.fromkeys(told)), sep="\n")
    assert told == sorted(told)
    # Downloading is the first half.
    assert len([share for share in set(told) if 0 < share < 0.5]) >= 2
    _assert_it_was_the_administrators_hub(kubectl, hub)
    model = xinference.get_model(UID)
    whole = model.chat(QUESTION, generate_config={"temperature": 0, "max_tokens": 8})
    print(f"answer: {whole['choices'][0]['message']['content']!r}, {whole['usage']}")
    assert whole["choices"][0]["message"]["content"]
    assert whole["usage"]["completion_tokens"] == 8
    streamed = list(model.chat(QUESTION, generate_config={"temperature": 0, "max_tokens": 8, "stream": True}))
    assert _said(streamed) == whole["choices"][0]["message"]["content"]
    xinference.terminate_model(UID)
    assert UID not in xinference.list_models()
    children = ("deployments,services,pods", "-n", front_door.HOME, "-l", f"{LABEL}={RESOURCE}", "-o", "name")
    wait_for(lambda: not kubectl("get", *children).split(), 120, "end of what was made for it")
    assert kubectl.get("mdep", RESOURCE, front_door.HOME) is None


def test_the_documented_curl_and_command_line(xinference: RESTfulClient, hub: Hub, kubectl: Kubectl) -> None:
    """One after the other, the words as Xinference's pages have them."""
    hub.pace = 0
    place = Place(xinference.base_url, "", "", lambda uids: [])
    curl = place.curl("/v1/models", CALL | {"size_in_billions": 4})
    assert json.loads(ended(curl, LAUNCH_SECONDS)[0]) == {"model_uid": UID}
    assert _answers(xinference)
    xinference.terminate_model(UID)
    wait_for(lambda: kubectl.get("mdep", RESOURCE, front_door.HOME) is None, 120, "end of the first")
    typed = place.jitney("launch", "--model-engine", "transformers", "-n", UID, "-s", "4", "-f", "pytorch", "-q", "none")
    assert f"Model uid: {UID}" in "".join(ended(typed, LAUNCH_SECONDS))
    assert _answers(xinference)


@pytest.mark.parametrize(("refusal", "words"), [((401, "GatedRepo"), "Unauthorized: "), ((404, "RepoNotFound"), "ModelNotFound: ")])
def test_what_the_hub_refuses_is_told_to_the_client(refusal: tuple[int, str], words: str, xinference: RESTfulClient, hub: Hub) -> None:
    hub.refused[REPOSITORY] = refusal
    with pytest.raises(RuntimeError, match=f"{words}.*{REPOSITORY}"):
        xinference.launch_model(**DOCUMENTED)
    assert UID not in xinference.list_models(), "what failed is not left behind"


def test_a_download_that_breaks_off_goes_on_where_it_was(xinference: RESTfulClient, hub: Hub) -> None:
    """huggingface_hub writes 10 MiB at a time; the client hears nothing of it."""
    hub.pace, hub.cuts = 0, {"model.safetensors": 12 * MIB}
    assert xinference.launch_model(**DOCUMENTED) == UID
    assert (hub.ranges, hub.cuts) == ([f"bytes={10 * MIB}-"], {})
    assert _answers(xinference)


def _answers(client: RESTfulClient) -> bool:
    answer = client.get_model(UID).chat(QUESTION, generate_config={"temperature": 0, "max_tokens": 4})
    return bool(answer["usage"]["completion_tokens"] == 4)


def _progress_until_over(client: RESTfulClient, launch: Future[str]) -> list[float]:
    """What is told while another caller waits for the launch."""
    wait_for(lambda: launch.done() or UID in client.list_models(), 60, "launch")
    told, deadline = list[float](), time.monotonic() + LAUNCH_SECONDS
    while not launch.done():
        if time.monotonic() > deadline:
            late = client.describe_model(UID)["message"]
            # Or the test would wait as long as its caller.
            client.cancel_launch_model(UID)
            pytest.fail(late)
        told.append(client.get_launch_model_progress(UID)["progress"])
        time.sleep(0.2)
    return told


def _assert_it_was_the_administrators_hub(kubectl: Kubectl, hub: Hub) -> None:
    """The launch says nothing of it, and the resource measured the 4B's own figures."""
    found: dict[str, Any] = kubectl.get("mdep", RESOURCE, front_door.HOME) or {}
    pinned = Catalogue.read().find("qwen1.5-chat", "4").revision
    resolved = found["status"]["resolved"]
    print(f"resolved: {json.dumps(resolved)}")
    assert "env" not in found["spec"]
    assert (resolved["repository"], resolved["size"], resolved["revision"]) == (REPOSITORY, "4", pinned)
    assert resolved["profile"] == "cpu-large"
    assert "cpu-large (24.00Gi) holds the model and cpu (4.00Gi) would not." in resolved["explanation"]
    assert f"{REPOSITORY}/resolve/{pinned}/model.safetensors" in hub.requests


def _said(events: list[dict[str, Any]]) -> str:
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])
