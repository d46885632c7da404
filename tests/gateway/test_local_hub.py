"""A launch on `jitney local` whose model comes from a hub that refuses, is away or breaks off, or has no room to come to."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from xinference_client import RESTfulClient

from hub.server import Hub, running_hub
from support.console import jitney
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


def by_http(local: Local, path: str, envs: dict[str, str]) -> str:
    """The reason that the answer to a launch that waits has, in both of its places."""
    body = {"model_name": "by-http", "model_engine": "transformers", "model_path": path, "envs": envs}
    answer = httpx.post(f"{local.url}/v1/models", json=body, timeout=240)
    told = answer.json()
    assert (answer.status_code, told["error"]["code"]) == (500, "launch_failed")
    assert told["error"]["message"] == told["detail"]
    return str(told["detail"])


def by_client(local: Local, path: str, envs: dict[str, str]) -> str:
    with pytest.raises(RuntimeError) as told:
        RESTfulClient(local.url).launch_model("by-client", model_engine="transformers", model_path=path, envs=envs)
    return str(told.value).removeprefix("Failed to launch model, detail: ")


def by_command(local: Local, path: str, envs: dict[str, str]) -> str:
    words = [word for name, text in envs.items() for word in ("-ev", name, text)]
    done = jitney("launch", "-e", local.url, "-n", "by-command", "-mp", path, *words)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1].removeprefix("error: ")


def reasons(local: Local, path: str, envs: dict[str, str]) -> list[str]:
    """Of three launches at once, each of which waits: by HTTP, by the published client, and by `jitney launch`."""
    with ThreadPoolExecutor(3) as threads:
        found = [threads.submit(way, local, path, envs) for way in (by_http, by_client, by_command)]
        return [one.result(240) for one in found]


@pytest.mark.parametrize(
    ("repository", "said"),
    [
        ("org/private", "Unauthorized: the hub refuses org/private (HTTP 401): it is private, gated or absent; check HF_TOKEN"),
        ("org/nobody", "ModelNotFound: the hub has no repository org/nobody"),
    ],
)
def test_a_repository_that_the_hub_does_not_give(local: Local, client: RESTfulClient, hub: Hub, tmp_path: Path, repository: str, said: str):
    for told in reasons(local, f"hf://{repository}", surroundings(hub.url, tmp_path)):
        assert told.startswith(said)
    assert not client.list_models(), "what never came is not left behind"


def test_a_hub_that_is_away(local: Local, client: RESTfulClient, tmp_path: Path):
    """It may come back, and is asked again; whoever waits is told of it all the while, and after a minute that this is the end."""
    away = surroundings("http://127.0.0.1:9", tmp_path)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(reasons, local, "hf://org/tiny", away)
        for uid in ("by-http", "by-client", "by-command"):
            until(lambda uid=uid: client.get_launch_model_progress(uid).get("failing"), 200)
            assert client.get_launch_model_progress(uid)["failing"].startswith("HubUnreachable: ")
            assert client.describe_model(uid)["status"] == "LOADING"
            assert "HubUnreachable: the hub cannot be reached" in client.describe_model(uid)["message"]
        assert not waiting.done()
        for told in waiting.result(300):
            assert told.startswith("HubUnreachable: the hub cannot be reached to download org/tiny: ")
            assert told.endswith("(failing for 60 s)")
    assert not client.list_models()


def test_a_launch_that_nobody_waits_for_is_not_given_up(client: RESTfulClient, tmp_path: Path):
    asked = {"model_name": "away", "model_engine": "transformers", "model_path": "hf://org/tiny"}
    uid = client.launch_model(**asked, envs=surroundings("http://127.0.0.1:9", tmp_path), wait_ready=False)
    until(lambda: client.get_launch_model_progress(uid)["failing"], 200)
    assert client.describe_model(uid)["status"] == "LOADING"
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
    # Each with a folder of its own: one that waits for another's lock would be served by what that has fetched.
    for number, way in enumerate((by_http, by_client, by_command)):
        told = way(local, "hf://org/tiny", surroundings(hub.url, small_disk / f"hf-{number}"))
        assert told == "DiskFull: the disk is full while downloading org/tiny: give the cache more room"
    assert not client.list_models()
