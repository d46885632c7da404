"""Our answers have the shape of Xinference's: both were asked the same, its answers are in tests/recordings (`make record-xinference`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.calls import calls, launches
from support.local import running_local
from support.models import save_damaged, save_endless, save_tiny
from support.recorded import ON_THIS_MACHINE, RECORDED, RECORDINGS, Answers, answers, answers_of_launches, stale, unlisted

# What describes a model, in its family's own words and those of the launch; the text of model_description is not recorded.
OF_A_FAMILY = ("model_name", "model_ability", "model_family", "model_lang", "model_size_in_billions", "model_format", "context_length")
DESCRIBING = (*OF_A_FAMILY, "model_type", "model_engine", "model_hub", "quantization", "replica")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """Of one `jitney local`."""
    folder = tmp_path_factory.mktemp("recorded")
    model = save_tiny(folder / "tiny", vocab_size=49152, max_position_embeddings=2048)
    endless, damaged = save_endless(folder / "endless", model), save_damaged(folder / "damaged", model)
    with running_local(folder / "state") as local, httpx.Client(base_url=local.url, timeout=120) as client:
        yield answers(client, model.as_uri()) | answers_of_launches(client, endless.as_uri(), damaged.as_uri())


def test_every_call_is_recorded():
    every = [*calls("file:///models/tiny"), *launches("file:///models/endless", "file:///models/damaged")]
    assert {call.name: (call.method, call.path) for call in every} == {
        name: (answer["method"], answer["path"]) for name, answer in RECORDED.items()
    }


@pytest.mark.parametrize("name", RECORDED)
def test_an_answer_has_the_shape_of_the_recorded_one(ours: Answers, name: str):
    assert not unlisted({name: ours[name]}, ON_THIS_MACHINE)


def test_no_difference_is_listed_that_is_gone(ours: Answers):
    assert not stale(ours, ON_THIS_MACHINE)


def descriptions(answer: Any) -> list[dict[str, Any]]:
    """What they say of each model in it."""
    models = answer["data"] if isinstance(answer, dict) and "data" in answer else answer if isinstance(answer, list) else [answer]
    found = [{key: model[key] for key in DESCRIBING if key in model} for model in models]
    return sorted(found, key=lambda model: str(model["model_name"]))


@pytest.mark.parametrize("name", ["models", "describe", "instances", "instances-of-one"])
def test_a_model_is_described_as_there(ours: Answers, name: str):
    """Clients choose by the ability what to call."""
    there = descriptions(RECORDED[name]["answer"])
    assert descriptions(ours[name]["answer"]) == there
    assert all(model["model_ability"] in (["chat"], ["generate"]) for model in there)


def test_a_launch_that_failed_is_told_as_there(ours: Answers):
    """Clients look for this word."""
    for instances in (RECORDED["failed-instances"]["answer"], ours["failed-instances"]["answer"]):
        assert [instance["status"] for instance in instances] == ["ERROR"]
        replicas = [replica for instance in instances for replica in instance["replica_statuses"]]
        assert [(replica["status"], replica["model_state"]) for replica in replicas] == [("ERROR", "error")]
        assert "header too large" in replicas[0]["error_message"]


def test_nothing_in_the_recordings_tells_of_a_machine():
    for file in RECORDINGS.iterdir():
        text = file.read_text()
        assert not [word for word in ("/root", "/home", "/tmp", "127.0.0.1", "node:") if word in text], file.name
