"""Which route a path with a uid in it leads to, and which uid that is."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI

from jitney_gateway.server.uids import ASKED, by_uid


@pytest.fixture(scope="module")
def app() -> FastAPI:
    app, router = FastAPI(), by_uid()

    @router.get("/v1/models/instances")
    async def instances() -> list[str]:
        return ["instances"]

    @router.get("/v1/models/{uid:uid}/logs")
    async def logs(uid: str) -> list[str]:
        return ["logs", uid]

    @router.delete("/v1/models/{uid:uid}/replicas/{replica}")
    async def remove(uid: str, replica: str) -> list[str]:
        return ["remove", uid, replica]

    @router.delete("/v1/models/{uid:uid}")
    @router.get("/v1/models/{uid:uid}")
    async def describe(uid: str) -> list[str]:
        return ["describe", uid]

    app.include_router(router)
    return app


async def asked(app: FastAPI, method: str, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
        return await client.request(method, f"/v1/models/{path}")


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("GET", "instances", ["instances"]),
        ("GET", "chat", ["describe", "chat"]),
        ("GET", "team/chat", ["describe", "team/chat"]),
        ("GET", "team%2Fchat", ["describe", "team/chat"]),
        ("GET", "team%2fchat", ["describe", "team/chat"]),
        ("GET", "chat/logs", ["logs", "chat"]),
        ("GET", "team/chat/logs", ["logs", "team/chat"]),
        ("GET", "team%2Fchat/logs", ["logs", "team/chat"]),
        ("GET", "team%2Flogs", ["describe", "team/logs"]),
        ("GET", "team%2Flogs/logs", ["logs", "team/logs"]),
        ("DELETE", "team/chat", ["describe", "team/chat"]),
        ("DELETE", "team/chat/replicas/0", ["remove", "team/chat", "0"]),
        ("DELETE", "team%2Fchat/replicas/chat-7", ["remove", "team/chat", "chat-7"]),
        ("GET", "%C3%A9%2Fb%20c", ["describe", "é/b c"]),
    ],
)
async def test_a_path_is_one_question_about_one_uid(app: FastAPI, method: str, path: str, answer: list[str]):
    assert (await asked(app, method, path)).json() == answer


@pytest.mark.parametrize("word", ASKED)
async def test_what_is_asked_of_a_model_is_never_taken_for_a_name(app: FastAPI, word: str):
    """Else DELETE …/chat/replicas would end a model."""
    assert (await asked(app, "DELETE", f"chat/{word}")).status_code in (404, 405)


async def test_a_uid_has_one_slash(app: FastAPI):
    assert (await asked(app, "GET", "a/b/c")).status_code == 404
