"""What huggingface_hub and the network say becomes a sentence that people can read: their real errors, with ids of requests."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import hf_raise_for_status

from hub.server import Hub, running_hub
from jitney_operator.words import alike
from jitney_runtime import errors
from jitney_runtime.torch_backend.hub import _causes, _translate


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text("{}")
    with running_hub() as hub:
        hub.repositories["org/tiny"] = folder
        hub.refused |= {"org/gated": (403, "GatedRepo"), "org/private": (401, "RepoNotFound"), "org/forbidden": (403, "")}
        hub.refused |= {"org/broken": (500, ""), "org/odd": (400, "")}
        yield hub


def failing(hub: Hub, folder: Path, repository: str = "org/tiny", **asked: str) -> Exception:
    """What the real client raises; a file where one is asked for, else all of the repository."""
    get: Callable[..., str] = huggingface_hub.hf_hub_download if "filename" in asked else huggingface_hub.snapshot_download
    try:
        path = get(repository, cache_dir=folder, endpoint=hub.url, **asked)
    except Exception as error:
        return error
    raise AssertionError(f"{repository} was downloaded to {path}")


def says(error: Exception, repository: str = "org/tiny", revision: str | None = None) -> tuple[type[errors.StartError], str]:
    translated = _translate(error, repository, revision)
    return type(translated), str(translated)


@pytest.mark.parametrize(
    ("repository", "asked", "kind", "reason", "said"),
    [
        ("org/absent", {}, RepositoryNotFoundError, errors.ModelNotFound, "the hub has no repository org/absent"),
        ("org/gated", {}, GatedRepoError, errors.Unauthorized, "org/gated is gated: accept"),
        ("org/private", {}, RepositoryNotFoundError, errors.Unauthorized, "the hub refuses org/private (HTTP 401)"),
        ("org/forbidden", {}, HfHubHTTPError, errors.Unauthorized, "the hub refuses org/forbidden (HTTP 403)"),
        ("org/tiny", {"revision": "v9"}, RevisionNotFoundError, errors.ModelNotFound, "org/tiny has no revision 'v9'"),
        (
            "org/tiny",
            {"filename": "none.json"},
            EntryNotFoundError,
            errors.HubUnreachable,
            "the hub cannot be reached to download org/tiny: it answers HTTP 404 Not Found",
        ),
        (
            "org/broken",
            {},
            HfHubHTTPError,
            errors.HubUnreachable,
            "the hub cannot be reached to download org/broken: it answers HTTP 500 Internal Server Error: refused",
        ),
        ("org/odd", {}, HfHubHTTPError, errors.HubUnreachable, "the hub cannot be reached to download org/odd: it answers HTTP 400"),
    ],
)
def test_the_hub_numbers_its_answers_and_the_sentence_has_no_number(
    hub: Hub, tmp_path: Path, repository: str, asked: dict[str, str], kind: type[Exception], reason: type[errors.StartError], said: str
):
    first, again = (failing(hub, tmp_path, repository, **asked) for _ in range(2))
    (one, other) = (next(cause for cause in _causes(error) if isinstance(cause, kind)) for error in (first, again))
    assert str(one) != str(other), "the real client repeats the hub's number"
    revision = asked.get("revision")
    assert says(first, repository, revision) == says(again, repository, revision)
    assert says(first, repository, revision)[0] is reason
    assert says(first, repository, revision)[1].startswith(said)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 404])
@pytest.mark.parametrize("header", ["X-Request-Id", "X-Amzn-Trace-Id", "X-Amz-Cf-Id"])
def test_whatever_number_an_answer_has(status: int, header: str):
    def raised(number: str) -> Exception:
        body = f"<Error><Code>SlowDown</Code><RequestId>{number}</RequestId><HostId>{number}=</HostId></Error>".encode()
        request = httpx2.Request("GET", "https://hub/api/models/org/tiny/revision/main")
        headers = {header: number, "Content-Type": "application/xml"}
        with pytest.raises(HfHubHTTPError) as caught:
            hf_raise_for_status(httpx2.Response(status, content=body, headers=headers, request=request))
        return caught.value

    first, again = raised("PvMw_VjBMjVdMz53WKIzP"), raised("Mwhe_c3Kt650GcdKEFomX")
    assert str(first) != str(again)
    assert says(first) == says(again)
    assert f"it answers HTTP {status} " in says(first)[1]
    assert "SlowDown" in says(first)[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_hub_that_is_not_there(tmp_path: Path):
    nobody = Hub(url=f"http://127.0.0.1:{closed_port()}")
    error = failing(nobody, tmp_path)
    assert isinstance(error, LocalEntryNotFoundError)
    assert any(isinstance(cause, httpx2.ConnectError) for cause in _causes(error))
    reason, said = says(error)
    assert reason is errors.HubUnreachable
    assert "Connection refused" in said
    assert said == says(failing(nobody, tmp_path))[1]


def test_a_client_that_may_not_go_out(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = failing(hub, tmp_path)
    assert isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled)
    reason, said = says(error)
    assert reason is errors.HubUnreachable
    assert "outgoing traffic has been disabled" in said
    assert said == says(failing(hub, tmp_path))[1]


def test_a_name_that_is_none(hub: Hub, tmp_path: Path):
    error = failing(hub, tmp_path, "org/-tiny-")
    assert isinstance(error, HFValidationError)
    assert says(error, "org/-tiny-")[0] is errors.ModelNotFound


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("<Code>SlowDown</Code><RequestId>4GX</RequestId><HostId>x+/=</HostId>", "<Code>SlowDown</Code>"),
        (
            "(Caused by NewConnectionError('<urllib3.connection.Connection object at 0x7f12ab3c4d50>: [Errno 111] Connection refused'))",
            "(Caused by NewConnectionError('<urllib3.connection.Connection object>: [Errno 111] Connection refused'))",
        ),
        (
            "404 Client Error. (Request ID: Root=1-659fc3fa-3031673e0f92c71a2260dbe2;bc6f4dfb-b30a-4862-af0a-5cfe827610d8)",
            "404 Client Error.",
        ),
        ("HTTP 503 from http://hub:8080/org/tiny-2", "HTTP 503 from http://hub:8080/org/tiny-2"),
    ],
)
def test_what_nobody_can_read_is_left_out(said: str, kept: str):
    assert says(httpx2.ConnectError(said))[1].removeprefix("the hub cannot be reached to download org/tiny: ") == kept


@pytest.mark.parametrize(
    ("said", "again"),
    [
        ("unavailable since 2026-01-01T07:00:41.123Z", "unavailable since 2026-01-02T17:10:01.5Z"),
        ("unavailable since Thu, 01 Jan 2026 07:00:41 GMT", "unavailable since Fri, 02 Jan 2026 17:10:01 GMT"),
        ("request id: PvMw_VjBMjVdMz53WKIzP", "request id: Mwhe_c3Kt650GcdKEFomX"),
        ("attempt bc6f4dfb-b30a-4862-af0a-5cfe827610d8 failed", "attempt 0a1b2c3d-b30a-4862-af0a-5cfe827610d9 failed"),
        ("no room for /cache/hub/blobs/abc.1f2e3d4c.incomplete", "no room for /cache/hub/blobs/abc.a0b1c2d3.incomplete"),
    ],
    ids=["a time", "a date", "a request", "a uuid", "a file"],
)
def test_what_belongs_to_one_attempt_stays_and_is_no_news_to_the_operator(said: str, again: str):
    sentences = [says(httpx2.ConnectError(words))[1] for words in (said, again)]
    assert [sentence.removeprefix("the hub cannot be reached to download org/tiny: ") for sentence in sentences] == [said, again]
    assert alike(*sentences, names=True)
