"""What is asked for beside the watches, and what holds while there is no answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from jitney_operator.api import Json, Key, ModelDeployment
from jitney_operator.claims import Claims
from jitney_operator.errors import ClusterError
from jitney_operator.load import Load
from jitney_operator.observed import Observed, Pod
from jitney_operator.scrape import SILENCE, Progress, Scrape
from jitney_operator.store import Store
from jitney_operator.workqueue import WorkQueue


class Server:
    """Answers with `answer`, an exception or a value."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, 0

    async def _say(self, *_: object) -> Any:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    get = _say


def resource(**spec: Any) -> ModelDeployment:
    metadata = {"name": "chat", "namespace": "team", "uid": "u1", "generation": 1}
    return ModelDeployment.parse({"metadata": metadata, "spec": {"model": "x/y", **spec}})


@pytest.mark.parametrize(
    ("modes", "exclusive"),
    [(["ReadWriteOnce"], True), (["ReadWriteOncePod"], True), (["ReadWriteOnce", "ReadOnlyMany"], False), (["ReadWriteMany"], False)],
)
async def test_a_claim_is_read_once_for_a_generation(modes: list[str], exclusive: bool):
    server = Server({"spec": {"accessModes": modes}})
    claims, mdep = Claims(server), resource(model="pvc://weights/m")  # type: ignore[arg-type]
    for _ in range(2):
        await claims.look(mdep)
    assert claims.exclusive(mdep) is exclusive
    assert server.asked == 1


async def test_a_claim_that_cannot_be_read_now_is_no_claim_for_all():
    """The look is done again, so that Recreate does not become RollingUpdate for a moment."""
    claims = Claims(Server(ClusterError(503, "busy")))  # type: ignore[arg-type]
    with pytest.raises(ClusterError):
        await claims.look(resource(model="pvc://weights/m"))


@pytest.mark.parametrize("answer", [None, ClusterError(403, "no")])
async def test_a_claim_that_is_not_there_is_asked_for_again(answer: Any):
    server = Server(answer)
    claims, mdep = Claims(server), resource(model="pvc://weights/m")  # type: ignore[arg-type]
    await claims.look(mdep)
    await claims.look(mdep)
    assert not claims.exclusive(mdep)
    assert server.asked == 2


async def test_a_call_for_a_replica_counts_only_where_the_load_decides():
    load, bounds = Load(Store(), WorkQueue(), lambda: True), {"minReplicas": 0, "maxReplicas": 4}
    sleeping = replace(resource(autoscaling=bounds), status={"autoscaling": {"replicas": 0, "decidedBy": "Load"}})

    def replicas(wanted_at: str, hpa: bool = False) -> int | None:
        return load.replicas(replace(sleeping, wanted_at=wanted_at).with_hpa(hpa), Observed())

    assert [replicas("a"), replicas("a")] == [0, 0], "an operator that starts wakes nobody for what was said before"
    assert [replicas("b", hpa=True), replicas("b")] == [None, 0], "nor does what was said while another had the say"
    assert [replicas("c"), replicas("c")] == [1, 1]


def loading(name: str = "p1") -> Pod:
    status: Json = {"podIP": "10.0.0.9", "containerStatuses": [{"name": "runtime", "state": {"running": {}}}]}
    return Pod({"metadata": {"name": name, "uid": name}, "spec": {"nodeName": "n"}, "status": status})


async def test_a_pod_that_says_nothing_is_not_believed_for_ever(monkeypatch: pytest.MonkeyPatch):
    """Its node may be lost."""
    scrape, key, now = Scrape(Store(), WorkQueue(), lambda: True), Key("team", "chat"), [100.0]
    monkeypatch.setattr("jitney_operator.scrape._now", lambda: now[0])

    def hear(answer: Progress | None) -> str:
        heard = scrape._newest(key, loading(), answer)
        assert heard is not None
        scrape._heard[key] = heard
        return heard.progress.line

    assert hear(Progress("Loading", "loading 50 %")) == "loading 50 %"
    now[0] += SILENCE - 1
    assert hear(None) == "loading 50 %"
    now[0] += 2
    assert hear(None) == "loading 50 %; the pod has not answered for 15 s"
    now[0] += 60
    assert hear(None) == "loading 50 %; the pod has not answered for 15 s", "the same words: no write"
    assert hear(Progress("Loading", "loading 60 %")) == "loading 60 %"
