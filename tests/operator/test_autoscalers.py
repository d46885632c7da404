"""Who scales a resource besides us, and what holds while that cannot be seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from jitney_operator import autoscalers, targets
from jitney_operator.api import Json, Key
from jitney_operator.autoscalers import Autoscalers
from jitney_operator.errors import ClusterError
from jitney_operator.store import Store
from jitney_operator.workqueue import WorkQueue

CHAT = Key("team", "chat")
HPAS, SCALED_OBJECTS = (plural for _, plural in autoscalers.KINDS)


def scaler(version: int, name: str = "h", of: str = "chat") -> Json:
    reference = {"apiVersion": "serving.jitney.dev/v1alpha1", "kind": "ModelDeployment", "name": of}
    return {"metadata": {"namespace": "team", "name": name, "resourceVersion": str(version)}, "spec": {"scaleTargetRef": reference}}


class Server:
    """Has `items`, tells what is put into `events`, and refuses what is in `errors`: by the plural, or that and `watch`. It does not know
    the kinds in `undefined`. An exception in `events` ends a watch, and END does as it should."""

    def __init__(self) -> None:
        self.items: dict[str, list[Json]] = {HPAS: [], SCALED_OBJECTS: []}
        self.events: dict[str, asyncio.Queue[Json | ClusterError]] = {HPAS: asyncio.Queue(), SCALED_OBJECTS: asyncio.Queue()}
        self.errors: dict[str, ClusterError] = {}
        self.undefined: set[str] = set()
        self.listings = 0

    async def everything(self, path: str) -> tuple[tuple[Json, ...], int]:
        plural = path.rpartition("/")[2]
        self.listings += 1
        if error := self.errors.get(plural):
            raise error
        return tuple(self.items[plural]), 10

    async def defines(self, group: str, plural: str) -> bool:
        return plural not in self.undefined

    @asynccontextmanager
    async def watch(self, path: str, version: int, seconds: int) -> AsyncIterator[AsyncIterator[Json]]:
        plural = path.rpartition("/")[2]
        if error := self.errors.get(f"{plural} watch"):
            raise error
        yield self._events(plural)

    async def _events(self, plural: str) -> AsyncIterator[Json]:
        while True:
            event = await self.events[plural].get()
            if isinstance(event, ClusterError):
                raise event
            if event["type"] == "END":
                return
            yield event


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"FIRST_PAUSE": 0.01, "LONGEST_PAUSE": 0.02, "UNDEFINED_PAUSE": 0.02, "GRACE": 0.2}.items():
        monkeypatch.setattr(targets, name, seconds)
    monkeypatch.setattr(autoscalers, "PERIOD", 0.01)
    # The first answers are what ends the waiting for them.
    monkeypatch.setattr(autoscalers, "MOMENT", 60.0)


class Scene:
    """An operator with one resource that scales with its load."""

    def __init__(self, *namespaces: str) -> None:
        self.server, self.queue, self.leads = Server(), WorkQueue(), True
        store = Store()
        metadata = {"name": "chat", "namespace": "team", "uid": "u1", "resourceVersion": "1"}
        store.put({"metadata": metadata, "kind": "ModelDeployment", "spec": {"model": "x/y", "autoscaling": {"maxReplicas": 2}}})
        self.found = Autoscalers(store, self.queue, self.server, namespaces, lambda: self.leads)  # type: ignore[arg-type]

    @property
    def view(self) -> tuple[bool, bool]:
        """Whether it is in doubt, and whether somebody scales it."""
        return bool(self.found.doubt(CHAT)), self.found.scales(CHAT)

    async def until(self, *view: bool) -> None:
        async with asyncio.timeout(10):
            while self.view != view:
                await asyncio.sleep(0.005)

    async def woken(self) -> None:
        """The resource is looked at."""
        assert await asyncio.wait_for(self.queue.take(), 10) == CHAT
        self.queue.done(CHAT)


@asynccontextmanager
async def running(scene: Scene) -> AsyncIterator[Scene]:
    task = asyncio.create_task(scene.found.run())
    try:
        async with asyncio.timeout(10):
            await scene.found.fresh()
        yield scene
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_it_is_known_with_the_first_look_and_then_by_events():
    async with running(Scene()) as scene:
        assert scene.view == (False, False)
        await scene.woken()
        listings = scene.server.listings
        for event, scaled in (("ADDED", True), ("DELETED", False)):
            scene.server.events[HPAS].put_nowait({"type": event, "object": scaler(11 if scaled else 13)})
            await scene.until(False, scaled)
            await scene.woken()
        assert scene.server.listings == listings


async def test_before_a_listing_nothing_is_known():
    scene = Scene()
    assert scene.view == (True, False)
    scene.server.errors[HPAS] = ClusterError(503, "busy")
    async with running(scene):
        assert scene.view == (True, False)
        assert "busy" in scene.found.doubt(CHAT)
        del scene.server.errors[HPAS]
        await scene.until(False, False)


@pytest.mark.parametrize("refused", [HPAS, f"{HPAS} watch", SCALED_OBJECTS, f"{SCALED_OBJECTS} watch"])
async def test_who_may_not_see_them_does_not_know(refused: str, caplog: pytest.LogCaptureFixture):
    scene = Scene()
    scene.server.errors[refused] = ClusterError(403, "you cannot")
    caplog.set_level("INFO")
    async with running(scene):
        assert scene.view == (True, False)
        assert "you cannot; grant the operator list and watch of" in scene.found.doubt(CHAT)
        before = scene.server.listings
        async with asyncio.timeout(10):
            while scene.server.listings < before + 4:
                assert scene.view[0], "nor between two tries"
                await asyncio.sleep(0.001)
        assert caplog.text.count("you cannot") == 1, "told once"
        del scene.server.errors[refused]
        await scene.until(False, False)


async def test_who_was_seen_to_scale_it_does_so_while_nothing_can_be_seen():
    async with running(Scene()) as scene:
        scene.server.items[HPAS] = [scaler(9)]
        scene.server.errors[f"{HPAS} watch"] = ClusterError(403, "no")
        scene.server.events[HPAS].put_nowait(ClusterError(0, "cut"))
        await scene.until(True, True)


@pytest.mark.parametrize("status", [403, 404])
async def test_without_keda_there_is_none_of_its_objects(status: int):
    scene = Scene()
    scene.server.errors[SCALED_OBJECTS], scene.server.undefined = ClusterError(status, "no such thing"), {SCALED_OBJECTS}
    async with running(scene):
        assert scene.view == (False, False)
        scene.server.items[SCALED_OBJECTS], scene.server.undefined = [scaler(9)], set()
        del scene.server.errors[SCALED_OBJECTS]
        await scene.until(False, True)


async def test_a_paused_scaled_object_still_has_the_say():
    scene = Scene()
    scene.server.items = {HPAS: [scaler(9, "keda-hpa-chat")], SCALED_OBJECTS: [scaler(8)]}
    async with running(scene):
        assert scene.view == (False, True)
        for plural, gone, scaled in ((HPAS, scaler(11, "keda-hpa-chat"), True), (SCALED_OBJECTS, scaler(12), False)):
            scene.server.events[plural].put_nowait({"type": "DELETED", "object": gone})
            await scene.until(False, scaled)


async def test_an_object_that_turns_to_another_resource():
    scene = Scene()
    scene.server.items[HPAS] = [scaler(9)]
    async with running(scene):
        scene.server.events[HPAS].put_nowait({"type": "MODIFIED", "object": scaler(11, of="other")})
        await scene.until(False, False)
        assert scene.found.scales(Key("team", "other"))


async def test_an_old_event_brings_nothing_back():
    async with running(Scene()) as scene:
        for version, kind, of in ((11, "ADDED", "chat"), (12, "DELETED", "chat"), (11, "ADDED", "chat"), (13, "ADDED", "other")):
            scene.server.events[HPAS].put_nowait({"type": kind, "object": scaler(version, of, of)})
        async with asyncio.timeout(10):
            while not scene.found.scales(Key("team", "other")):
                await asyncio.sleep(0.005)
        assert scene.view == (False, False)


@pytest.mark.parametrize(
    "end",
    [
        ClusterError(0, "silent"),
        {"type": "ERROR", "object": {"code": 410, "message": "too old"}},
        {"type": "ADDED", "object": {"metadata": {}}},
    ],
)
async def test_whatever_ends_a_watch_a_listing_follows(end: Json | ClusterError):
    async with running(Scene()) as scene:
        scene.server.items[HPAS] = [scaler(9)]
        scene.server.events[HPAS].put_nowait(end)
        await scene.until(False, True)


async def test_what_was_seen_holds_for_a_while_and_not_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(targets, "GRACE", 3.0)
    async with running(Scene()) as scene:
        before = scene.server.listings
        scene.server.errors[HPAS] = ClusterError(503, "busy")
        scene.server.events[HPAS].put_nowait(ClusterError(0, "cut"))
        async with asyncio.timeout(10):
            while scene.server.listings < before + 2:
                await asyncio.sleep(0.005)
        assert scene.view == (False, False)
        await scene.until(True, False)


async def test_who_is_in_doubt_is_looked_at_and_again_when_it_has_gone_or_is_another():
    async with running(Scene()) as scene:
        await scene.woken()
        scene.server.errors[HPAS] = ClusterError(503, "busy")
        scene.server.events[HPAS].put_nowait(ClusterError(0, "cut"))
        await scene.woken()
        assert "busy" in scene.found.doubt(CHAT)
        scene.server.errors[HPAS] = ClusterError(500, "broken")
        await scene.woken()
        assert "broken" in scene.found.doubt(CHAT)
        del scene.server.errors[HPAS]
        await scene.woken()
        assert scene.view == (False, False)


async def test_the_doubt_is_not_that_of_the_last_time():
    async with running(Scene()) as scene:
        scene.server.events[HPAS].put_nowait(ClusterError(503, "busy"))
        async with asyncio.timeout(10):
            while scene.server.listings < 3:
                await asyncio.sleep(0.005)

        async def hang(path: str) -> tuple[tuple[Json, ...], int]:
            await asyncio.Event().wait()
            raise AssertionError

        scene.server.everything = hang  # type: ignore[method-assign]
        scene.server.events[HPAS].put_nowait({"type": "END"})
        await scene.until(True, False)
        assert "has ended and none could be opened since" in scene.found.doubt(CHAT)


async def test_an_odd_answer_is_told_once_with_where_it_was_read(caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO")
    scene = Scene()
    scene.server.items[HPAS] = [{"spec": scaler(9)["spec"]}]
    async with running(scene):
        async with asyncio.timeout(10):
            while scene.server.listings < 8:
                await asyncio.sleep(0.005)
        assert "cannot be read" in scene.found.doubt(CHAT)
        assert caplog.text.count("Traceback") == 1


async def test_one_namespace_is_in_doubt_alone():
    scene = Scene("team", "other")
    scene.server.undefined = {SCALED_OBJECTS}
    refuse = scene.server.everything

    async def everything(path: str) -> tuple[tuple[Json, ...], int]:
        if "/other/" in path:
            raise ClusterError(403, "no")
        return await refuse(path)

    scene.server.everything = everything  # type: ignore[method-assign]
    async with running(scene):
        assert not scene.found.doubt(CHAT)
        assert scene.found.doubt(Key("other", "chat"))


async def test_it_looks_only_while_it_leads():
    scene = Scene()
    scene.leads = False
    task = asyncio.create_task(scene.found.run())
    await asyncio.sleep(0.05)
    assert (scene.server.listings, scene.view) == (0, (True, False))
    scene.leads = True
    await scene.until(False, False)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
