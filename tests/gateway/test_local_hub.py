"""A launch on `jitney local` whose model comes from a hub that refuses, is away or breaks off, or has no room to come to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from xinference_client import RESTfulClient

from hub.server import Hub, running_hub
from support.console import fails
from support.local import QUESTION, Local, until
from support.models import save_tiny

MIB = 2**20


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with running_hub() as hub:
        # With as many tokens as its tokenizer has: 25 MB of weights.
        hub.repositories["org/tiny"] = save_tiny(tmp_path_factory.mktemp("tiny"), vocab_size=49152)
        hub.refused["org/private"] = 401, "RepoNotFound"
        yield hub


def surroundings(url: str, home: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}


def test_a_repository_that_is_refused(client: RESTfulClient, hub: Hub, tmp_path: Path):
    asked = {"model_name": "private", "model_engine": "transformers", "model_path": "hf://org/private"}
    with pytest.raises(RuntimeError, match=r"Unauthorized: the hub refuses org/private \(HTTP 401\): it is private, gated or absent"):
        client.launch_model(**asked, envs=surroundings(hub.url, tmp_path))
    assert "private" not in client.list_models()


def test_a_repository_that_is_not_there(client: RESTfulClient, hub: Hub, tmp_path: Path):
    asked = {"model_name": "nobody", "model_engine": "transformers", "model_path": "hf://org/nobody"}
    with pytest.raises(RuntimeError, match="ModelNotFound: the hub has no repository org/nobody"):
        client.launch_model(**asked, envs=surroundings(hub.url, tmp_path))
    assert "nobody" not in client.list_models()


def test_a_hub_that_is_away(client: RESTfulClient, tmp_path: Path):
    """It may come back, and is asked again; whoever waits is told of it all the while."""
    asked = {"model_name": "away", "model_engine": "transformers", "model_path": "hf://org/tiny"}
    uid = client.launch_model(**asked, envs=surroundings("http://127.0.0.1:9", tmp_path), wait_ready=False)
    until(lambda: client.get_launch_model_progress(uid)["failing"], 200)
    assert client.get_launch_model_progress(uid)["failing"].startswith("HubUnreachable: ")
    assert client.describe_model(uid)["status"] != "ERROR"
    client.terminate_model(uid)


def test_a_download_that_breaks_off_goes_on_where_it_was(client: RESTfulClient, hub: Hub, tmp_path: Path):
    """huggingface_hub writes 10 MiB at a time."""
    hub.cuts, hub.ranges = {"model.safetensors": 12 * MIB}, []
    asked = {"model_name": "tiny", "model_engine": "transformers", "model_path": "hf://org/tiny"}
    uid = client.launch_model(**asked, envs=surroundings(hub.url, tmp_path))
    assert client.describe_model(uid)["status"] == "READY"
    assert (hub.ranges, hub.cuts) == ([f"bytes={10 * MIB}-"], {})
    assert client.get_model(uid).chat(QUESTION, generate_config={"max_tokens": 3})["usage"]["completion_tokens"] == 3
    client.terminate_model(uid)


def test_a_disk_that_is_full(local: Local, client: RESTfulClient, hub: Hub, small_disk: Path):
    words = ["launch", "-e", local.url, "-n", "full", "-mp", "hf://org/tiny"]
    for name, text in surroundings(hub.url, small_disk / "hf").items():
        words += ["-ev", name, text]
    fails(*words, said="error: DiskFull: the disk is full while downloading org/tiny")
    assert "full" not in client.list_models()
