"""The operator is asked for its verdict, and once more where too many ask it."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from jitney_gateway.fit import Verdict
from jitney_gateway.kubernetes import judge
from jitney_gateway.kubernetes.verdict import PATH

BODY = {"apiVersion": "v1", "kind": "ModelDeployment", "metadata": {"name": "chat", "namespace": "team"}, "spec": {"model": "x/y"}}
REFUSED = {"accepted": False, "fits": False, "message": "too large"}


@pytest.mark.parametrize(
    ("statuses", "asked", "verdict"),
    [
        ([200], 1, Verdict.DOES_NOT_FIT),
        ([503, 200], 2, Verdict.DOES_NOT_FIT),
        ([503, 503, 200], 2, Verdict.UNKNOWN),
        ([400, 200], 1, Verdict.UNKNOWN),
    ],
)
async def test_who_is_asked_by_too_many_is_asked_once_more(
    statuses: list[int], asked: int, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(judge, "SECONDS", 30.0)
    told: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        told.append(statuses[len(told)])
        return web.json_response(REFUSED, status=told[-1])

    app = web.Application()
    app.router.add_post(PATH, answer)
    async with TestServer(app) as server:
        found = await judge.Judge(str(server.make_url(""))).fit(BODY)
    assert (len(told), found.verdict) == (asked, verdict)
