"""One `jitney local` for a file's tests, and the published clients on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from xinference_client import AsyncRESTfulClient, RESTfulClient

from support.local import Local, running_local
from support.rig import Rig


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    with running_local(tmp_path_factory.mktemp("local")) as local:
        yield local


@pytest.fixture(scope="module")
def client(local: Local) -> RESTfulClient:
    return RESTfulClient(local.url)


@pytest.fixture
async def caller(local: Local) -> AsyncIterator[AsyncRESTfulClient]:
    """The async client, which belongs to one event loop."""
    client = AsyncRESTfulClient(local.url)
    yield client
    await client.close()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    rig.start()
    yield rig
    await rig.stop()
